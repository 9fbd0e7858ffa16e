"""What the section `processors` of the exporter's benchmark makes of its figures."""

from __future__ import annotations

from typing import Any

import pytest

import exporter_processors as section
from peers import emulated

MODALITIES = ("text", "image", "audio")


def seen(there: list[float], back: list[float]) -> section.Seen:
    return section.Seen("1.27.0", 9.0, 0.999, 0.99, 3, there, back)


def drift(within: bool) -> dict[str, Any]:
    return {"precision": "int8", "mean": 0.9, "worst": 0.8, "within": within}


def judged(one: section.Seen, ours: bool = True, caught: bool = True) -> dict[str, bool]:
    found = {modality: dict.fromkeys(section.PROCESSORS, one) for modality in MODALITIES}
    checked = {modality: drift(ours) for modality in MODALITIES}
    checked["saturating"] = drift(not caught)
    return {target.name: target.judged()["met"] for target in section.targets(found, checked)}


def test_the_worse_way_of_each_processor_and_modality_is_held_to_a_point() -> None:
    good = judged(seen([2.0, -1.0], [1.0, 1.0]))
    assert len(good) == 3 * 3 + 4
    assert all(good.values())
    for bad in (seen([3.0, -0.5], [0.0, 0.0]), seen([0.0, 0.0], [3.0, -0.5])):
        assert sum(not met for met in judged(bad).values()) == 9


def test_a_check_that_refuses_ours_or_lets_overflow_pass_is_no_check() -> None:
    fine = seen([0.0], [0.0])
    assert [name for name, met in judged(fine, ours=False).items() if not met] == [
        f"{modality}: its golden samples pass on Haswell" for modality in MODALITIES
    ]
    assert [name for name, met in judged(fine, caught=False).items() if not met] == [
        "saturating: its golden samples are refused on Haswell"
    ]


def test_a_processor_that_cannot_be_emulated_is_said_and_unmet(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    def lacking(*_: Any) -> emulated.Processor:
        raise emulated.UnavailableError("there is no qemu")

    for name in section.PROCESSORS:
        monkeypatch.setitem(section.PROCESSORS, name, lacking)
    notes: list[str] = []
    assert section.available(tmp_path, notes) == []
    assert notes == [f"{name} cannot be emulated here: there is no qemu" for name in section.PROCESSORS]
    made = section.targets({modality: {} for modality in MODALITIES}, {})
    assert len(made) == 13
    assert {(target.value, target.judged()["met"]) for target in made} == {(None, False)}
