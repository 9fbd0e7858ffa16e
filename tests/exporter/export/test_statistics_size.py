"""What statistics cost to share: an export keeps them below half of a theta update, counted as they are sent."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import solvable
import tiny
from aggregator.institution import write_bundle

from homeroom.contract.manifest import Manifest
from homeroom.contract.round import RoundConfiguration, StatisticsRules
from homeroom.contract.secagg import SecureRules
from homeroom.contract.statistics.section import DIMENSION_LIMIT, Section
from homeroom.contract.statistics.secure import StatisticsTerms
from homeroom.privacy.secagg.encoding import SumLayout
from homeroom.privacy.secagg.masks import pack
from homeroom.privacy.secagg.statistics_shape import StatisticsShape, encode_statistics
from homeroom_exporter.export import statistics_size
from homeroom_exporter.export.statistics_size import (
    COHORT,
    LEAST_DIMENSION,
    most_components,
    secure_bytes,
    with_at_most,
)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    path = write_bundle(tmp_path_factory.mktemp("bundle") / "lesson", statistics=True)
    return msgspec.json.decode((path / "manifest.json").read_bytes(), type=Manifest)


@pytest.fixture
def section(manifest: Manifest) -> Section:
    """Its section, with blocks as large as blocks may be."""
    found = manifest.statistics
    assert isinstance(found, Section)
    blocks = (msgspec.structs.replace(block, width=400, dimension=DIMENSION_LIMIT) for block in found.blocks)
    return msgspec.structs.replace(found, blocks=tuple(blocks))


def test_bytes_are_those_that_a_device_sends_of_all_rows_and_pairs(manifest: Manifest, section: Section) -> None:
    terms = RoundConfiguration(
        bundle_id="0" * 64, secure=SecureRules(cohort=COHORT), statistics=StatisticsRules(mode="secure")
    )
    shape = StatisticsShape(msgspec.structs.replace(manifest, statistics=section), terms, StatisticsTerms())
    chosen = tuple(shape.chosen({name: set(range(5)) for name in shape.announced}, 3))
    others = sum(shape.size(one) + 1 for one in chosen if '"\\u0000"' in one)  # rows without a name: nobody's here
    layout = SumLayout(chosen, tuple(map(shape.size, chosen)), shape.width(COHORT))
    sent = pack(encode_statistics(shape, layout, {}, {}), layout.width)
    assert secure_bytes(manifest, section) == len(sent) - others * layout.width
    assert others <= 0.05 * layout.count


@pytest.mark.parametrize("theta_values", [10_000, 40_000, 100_237, 10**7])
def test_as_many_components_as_half_of_theta_allows(manifest: Manifest, section: Section, theta_values: int) -> None:
    most = most_components(manifest, section, theta_values)

    def share(components: int) -> float:
        return secure_bytes(manifest, with_at_most(section, components)) / (4 * theta_values)

    assert share(most) <= 0.5 or most == LEAST_DIMENSION
    assert share(most + 1) > 0.5 or most == DIMENSION_LIMIT
    assert (most == DIMENSION_LIMIT) == (theta_values > 40_000)


def test_an_export_has_no_more_components(
    solved_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics_size, "LEAST_DIMENSION", 4)
    free = solved_bundle.manifest
    made = solvable.with_statistics(tmp_path / "bound", theta_values=4000).manifest
    assert isinstance(made.statistics, Section)
    assert isinstance(free.statistics, Section)
    assert secure_bytes(free, free.statistics) > 8000 >= secure_bytes(made, made.statistics)
    before, after = ({b.name: b for b in one.blocks} for one in (free.statistics, made.statistics))
    most = max(block.dimension for block in after.values())
    for name, block in after.items():
        assert block.dimension == min(before[name].dimension, most)
        assert (block.statistics_id == before[name].statistics_id) == (block.dimension == before[name].dimension)
