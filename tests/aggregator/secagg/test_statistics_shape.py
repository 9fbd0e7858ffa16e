"""Statistics in secure rounds: whoever comes, the decoded sum is the plain sum, and no number is of few devices."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.institution import SEGMENTS, write_bundle
from aggregator.statistics_lesson import pupil_sums
from homeroom.contract.manifest import Manifest
from homeroom.contract.round import RoundConfiguration, StatisticsRules
from homeroom.contract.secagg import SecureRules
from homeroom.contract.statistics.encoding import encode
from homeroom.contract.statistics.limits import check_release
from homeroom.contract.statistics.pooling import pool
from homeroom.contract.statistics.secure import StatisticsTerms, segment_of, shared_rows
from homeroom.contract.statistics.sums import NOTHING, Statistics, add, merge
from homeroom.errors import TrustError
from homeroom.federation.secure_statistics import pool_settled
from homeroom.privacy.secagg.encoding import SumLayout, ThetaShape, decode
from homeroom.privacy.secagg.masks import ring_dtype, signed
from homeroom.privacy.secagg.statistics_shape import HOLDS, StatisticsShape, encode_statistics

CONFIGURATION = RoundConfiguration(
    bundle_id="0" * 64, secure=SecureRules(), statistics=StatisticsRules(mode="secure", sample_limit=1000)
)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    path = write_bundle(tmp_path_factory.mktemp("bundle") / "lesson", statistics=True)
    return msgspec.json.decode((path / "manifest.json").read_bytes(), type=Manifest)


@dataclass
class Total:
    """The server's side of a total: its terms, its sum, and what each device has in it."""

    manifest: Manifest
    terms: StatisticsTerms
    sums: Statistics
    known: dict[int, Statistics]

    def sum_round(self, own: dict[int, Statistics], least: int) -> dict[str, frozenset[int]]:
        """Sums what changed of these devices, by their slots; who fed which segment."""
        shape = StatisticsShape(self.manifest, CONFIGURATION, self.terms)
        fed: dict[str, set[int]] = {name: set() for name in shape.announced}
        for slot, whole in own.items():
            settled = pool_settled(whole, self.terms.poolings)
            before = self.known.get(slot, NOTHING)
            for name in shape.segments.changed(shape.open_segments, before, settled):
                fed[name].add(slot)
            for name in shape.segments.changed(shape.open_segments, NOTHING, settled):
                fed[HOLDS + name].add(slot)
        chosen, poolings = shape.chosen(fed, least), shape.settle(fed, least)
        layout = SumLayout(tuple(chosen), tuple(map(shape.size, chosen)), shape.width(len(own)))
        ring = np.zeros(layout.count, ring_dtype(layout.width))
        for slot, whole in own.items():
            mine = [segment_of(name) for name, slots in chosen.items() if slot in slots]
            after, before = pool(whole, poolings), self.known.get(slot, NOTHING)
            values = {s.name: shape.segments.values(s, after) - shape.segments.values(s, before) for s in mine}
            ring += encode_statistics(shape, layout, values, dict.fromkeys(values, 1))
            tasks = {segment.task for segment in mine}
            kept = {cell: one for cell, one in before.cells.items() if cell.task not in tasks}
            new = {cell: one for cell, one in after.cells.items() if cell.task in tasks}
            self.known[slot] = Statistics(kept | new)
        values, subjects = decode(layout, signed(ring, layout.width))
        assert subjects == {name: len(slots) for name, slots in chosen.items()}
        self.sums = add(self.sums, shape.segments.statistics({segment_of(n): v for n, v in values.items()}))
        tasks = {segment_of(name).task for name in chosen} | self.terms.shared.keys()
        shared = {task: shared_rows(pooling) for task, pooling in poolings.items() if task in tasks}
        self.terms = msgspec.structs.replace(self.terms, sums=self.terms.sums + 1, shared=shared)
        return chosen


@cache
def sums_of(pupil: int, rows: str) -> Statistics:
    return pupil_sums(pupil, labels=tuple(rows))


Pupils = st.dictionaries(st.integers(0, 4), st.sampled_from(["abcd", "abc", "ab", "d"]), max_size=4)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(Pupils, min_size=5, max_size=5), min_size=1, max_size=3), st.integers(2, 4))
def test_the_sum_is_that_of_what_each_device_has_in_it_and_of_enough_devices(
    manifest: Manifest, lessons: list[list[dict[int, str]]], least: int
) -> None:
    total = Total(manifest, StatisticsTerms(), NOTHING, {})
    for lesson in lessons:
        own = {
            slot: merge(sums_of(100 * slot + seed, rows) for seed, rows in pupils.items())
            for slot, pupils in enumerate(lesson)
        }
        before = dict(total.known)
        chosen = total.sum_round(own, least)
        assert all(len(slots) >= least for slots in chosen.values())
        assert encode(total.sums) == encode(merge(total.known.values()))
        check_release(total.sums, manifest)
        segments = StatisticsShape(manifest, CONFIGURATION, total.terms).segments
        for one in segments.of_poolings(total.terms.poolings):
            pairs = ((before.get(slot, NOTHING), after) for slot, after in total.known.items())
            feeders = sum(not np.array_equal(segments.values(one, a), segments.values(one, b)) for a, b in pairs)
            assert feeders == len(chosen.get(one.name, ())), f"{one} was changed by {feeders}"


def test_all_that_come_are_summed_whole_where_each_teaches_the_same(manifest: Manifest) -> None:
    total = Total(manifest, StatisticsTerms(), NOTHING, {})
    own = {slot: merge(pupil_sums(10 * slot + one) for one in range(3)) for slot in range(4)}
    total.sum_round(own, 4)
    assert encode(total.sums) == encode(merge(own.values()))


def test_no_round_of_updates_or_of_other_terms_passes_for_one_of_statistics(manifest: Manifest, tmp_path: Path) -> None:
    from homeroom.contract.layout import Layout

    first = StatisticsShape(manifest, CONFIGURATION, StatisticsTerms())
    other = StatisticsShape(manifest, CONFIGURATION, StatisticsTerms(total=2))
    assert len({first.rules_id, other.rules_id, ThetaShape(Layout(SEGMENTS), CONFIGURATION).rules_id}) == 3
    off = msgspec.structs.replace(CONFIGURATION, statistics=StatisticsRules())
    with pytest.raises(TrustError, match="no secure statistics"):
        _ = StatisticsShape(manifest, off, StatisticsTerms()).secure
