"""A kill inside a rule's readings of the log: another start makes the same version, to the last bit."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.institution import START, School, make_folder
from aggregator.merge.test_bounded import held
from aggregator.merge.test_crashes import dying
from homeroom.contract.round import RoundConfiguration
from homeroom_aggregator.admin.folder import open_rounds
from homeroom_aggregator.merge import bounded
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.state import set_apart

SCHOOLS = [School() for _ in range(5)]


def updates(configuration: RoundConfiguration) -> list[bytes]:
    """Of five devices, the last a liar."""
    rng = np.random.default_rng(25)
    steps = [rng.normal(0.25, 0.1, START.shape) for _ in SCHOOLS[1:]] + [np.full(START.shape, -9.0)]
    return [
        device.update(configuration, step, ladder_table=4, head_grade=4)
        for device, step in zip(SCHOOLS, steps, strict=True)
    ]


def all_but_the_last(folder: Path) -> bytes:
    """Send four updates, of a release of five; the fifth."""
    with closing(open_rounds(folder)) as rounds:
        *first, last = updates(rounds.configuration)
        for device, data in zip(SCHOOLS, first, strict=False):
            rounds.update(data, device.name)
    return last


def release(rounds: Rounds, last: bytes) -> bytes:
    assert rounds.update(last, SCHOOLS[-1].name)[1] == "accepted"
    assert rounds.state.version == 1
    return rounds.state.theta.tobytes()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("rule", ["bounded", "trimmed", "multi-krum"])
def test_a_kill_in_any_reading_of_a_release_leaves_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str, late: bool
) -> None:
    monkeypatch.setattr(bounded, "BLOCK_VALUES", 2 * len(SCHOOLS))  # blocks of two values: several readings of each
    rules: dict[str, Any] = {"rule": rule, "buffer_size": 5, "min_devices": 3}
    calls, read = list[int](), bounded.read_admitted
    folder = make_folder(tmp_path / "undisturbed", **rules)
    last = all_but_the_last(folder)
    with monkeypatch.context() as counting, closing(open_rounds(folder)) as rounds:
        counting.setattr(bounded, "read_admitted", lambda *asked: calls.append(0) or read(*asked))
        wanted = release(rounds, last)
    assert wanted != START.tobytes()
    assert len(calls) == 5 if rule == "bounded" else len(calls) > 10, "who compares updates reads them several times"

    folder = make_folder(tmp_path / "killed", **rules)
    last = all_but_the_last(folder)
    for nth in sorted({1, 2, len(calls) // 2, len(calls) - 1, len(calls)}):
        child = os.fork()
        if child == 0:
            try:
                bounded.read_admitted = dying(read, nth, late)
                open_rounds(folder).update(last, SCHOOLS[-1].name)
            finally:
                os._exit(0)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), f"reading {nth} of {len(calls)}"
        with closing(open_rounds(folder)) as rounds:
            assert (rounds.state.version, rounds.state.pending) == (0, 4)
            assert rounds.state.theta.tobytes() == START.tobytes()
            assert set_apart.reasons(rounds.log.database) == [], "nobody's update is blamed"
    rounds = open_rounds(folder)
    assert release(rounds, last) == wanted
    held(rounds)
