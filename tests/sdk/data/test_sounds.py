"""What a model hears of recordings as people have them: one side, anti-phase, quiet before the word, a long lesson."""

from __future__ import annotations

import io

import msgspec
import numpy as np
import pytest
import soundfile

from homeroom.contract.manifest import AudioPreprocess
from homeroom.data.preprocess.audio import decode, prepare, window

RATE = 8000
SPEC = AudioPreprocess(rate=RATE, samples=RATE, form="waveform", version=2)  # one second


def tone(seconds: float, level: float = 0.4) -> np.ndarray:
    return (level * np.sin(np.arange(int(seconds * RATE)) * 0.3)).astype(np.float32)


def hiss(seconds: float, level: float = 0.001) -> np.ndarray:
    return np.random.default_rng(0).normal(0, level, int(seconds * RATE)).astype(np.float32)


def heard(*sides: np.ndarray, version: int = 2) -> np.ndarray:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.stack(sides, 1), RATE, format="WAV", subtype="FLOAT")
    wave, rate = decode(buffer.getvalue(), version=version)
    return next(iter(prepare(msgspec.structs.replace(SPEC, version=version), wave, rate, 20).arrays.values()))


def rms(wave: np.ndarray) -> float:
    return float(np.sqrt(np.mean(wave**2)))


WORD = tone(0.9)
SIDES = {
    "one silent side": (WORD, np.zeros_like(WORD)),
    "one side that hisses": (hiss(0.9), WORD),
    "one side with a constant voltage": (np.full_like(WORD, 0.7), WORD),
    "anti-phase": (WORD, -WORD),
    "four microphones, one on": (*[np.zeros_like(WORD)] * 3, WORD),
}


@pytest.mark.parametrize("case", SIDES)
def test_the_side_that_speaks_is_heard_as_loud_as_it_spoke(case: str) -> None:
    assert abs(rms(heard(*SIDES[case])) - rms(heard(WORD))) < 0.002
    assert abs(rms(heard(*SIDES[case], version=1)) - rms(heard(WORD))) > 0.05  # as bundles of before heard it


def test_two_sides_that_both_speak_are_mixed() -> None:
    assert np.array_equal(heard(WORD, 0.5 * WORD), heard(0.75 * WORD))


def test_leading_quiet_is_trimmed_and_the_word_is_heard() -> None:
    found = heard(np.concatenate([hiss(3.0), WORD]))
    assert abs(rms(found) - rms(heard(WORD))) < 0.02
    assert rms(found[: RATE // 20]) < 0.01  # a tenth of a second before it is kept


def test_of_a_long_sound_the_loudest_part_is_heard() -> None:
    long = np.concatenate([tone(2.0, 0.1), tone(1.2), tone(3.0, 0.2)])
    assert abs(rms(heard(long)) - rms(tone(1.0))) < 0.002
    start, end = window(SPEC, long, RATE)
    assert end - start == RATE
    assert 2.0 * RATE - 200 <= start <= 2.2 * RATE + 200


def test_a_sound_that_is_as_loud_throughout_is_heard_from_its_beginning() -> None:
    steady = np.tile(tone(0.02), 300)  # each frame the same
    assert window(SPEC, steady, RATE) == (0, RATE)
    assert window(SPEC, np.zeros(5 * RATE, np.float32), RATE) == (0, RATE)


@pytest.mark.parametrize("length", [0, 1, 100, RATE - 1, RATE, RATE + 1, RATE + 159])
@pytest.mark.parametrize("level", [0.0, 1.0, 1e30])
def test_a_window_lies_within_its_sound(length: int, level: float) -> None:
    with np.errstate(over="ignore"):
        start, end = window(SPEC, np.full(length, level, np.float32), RATE)
    assert 0 <= start <= end <= length
    assert end - start <= RATE


def test_bundles_of_before_hear_the_beginning() -> None:
    long = np.concatenate([tone(2.0, 0.1), tone(1.2)])
    assert window(msgspec.structs.replace(SPEC, version=1), long, RATE) == (0, RATE)


def test_leading_quiet_is_trimmed_of_a_sound_that_is_short_enough_too() -> None:
    short = np.concatenate([hiss(0.5), tone(0.3)])
    assert window(SPEC, short, RATE) == (round(0.4 * RATE), len(short))
    assert prepare(SPEC, short, RATE, 20).tokens == 8
