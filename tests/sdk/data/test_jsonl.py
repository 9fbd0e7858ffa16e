"""Lines of JSON from outside: each is a sample of text that can be stored, or one problem of that line."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import tiny
from conftest import Attack

from homeroom import Device, Sample
from homeroom.data.ingest.intake import Intake
from homeroom.data.ingest.jsonl import LINE_LIMIT_BYTES, read_jsonl
from homeroom.data.samples import RESERVED_FIELDS
from homeroom.errors import InputError

GOOD = b'{"word": "a", "facts": {"legs": 4}, "subject": "p", "labels": {"category": "cat"}}'
HOSTILE = {
    "half of a surrogate pair": b'{"word": "\\ud800"}',
    "half of one as a subject": b'{"word": "a", "subject": "\\udfff"}',
    "half of one as a name": b'{"\\uD800": "a"}',
    "a depth of 100,000": b'{"word": ' + b"[" * 100_000 + b"}",
    "closed depth": b'{"word": ' + b'{"a":' * 150_000 + b"1" + b"}" * 150_000 + b"}",
    "a number of 5,000 digits": b'{"facts": {"legs": ' + b"9" * 5000 + b"}}",
    "no number of JSON": b'{"facts": {"legs": NaN}}',
    "a name twice": b'{"word": "a", "word": "b"}',
    "no object": b"[1]",
    "no text": b'{"word": "\xff"}',
}
SPLICES = (b"\\ud800", b"\\uDFFF\\uD800", b"1e999", b"[", b"{", b'"', b"null", b"-0", b"\xff", b"\\u0000", b"9" * 5000)


def read(line: bytes, folder: Path) -> tuple[list[Sample], Intake]:
    path, intake = folder / "rows.jsonl", Intake()
    path.write_bytes(line + b"\n" + GOOD + b"\n")
    return list(read_jsonl(path, intake, RESERVED_FIELDS)), intake


@pytest.mark.attack("files and bundles", "A line of JSON that is deep, huge or half a character")
@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_line_is_one_problem_and_the_next_is_read(case: str, tmp_path: Path, attack: Attack) -> None:
    samples, intake = read(HOSTILE[case], tmp_path)
    assert [problem.place for problem in intake.problems] == ["rows.jsonl line 1"]
    attack.got = len(samples) - 1
    attack.noticed = str(intake.problems[0])[:200]
    attack.noticed.encode()


def test_a_line_that_is_too_long_ends_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="longer than"):
        read(b'{"word": "' + b"a" * LINE_LIMIT_BYTES + b'"}', tmp_path)


def test_whatever_line_comes_is_a_sample_that_can_be_written_or_a_problem(tmp_path: Path) -> None:
    draw = random.Random(20)
    for _ in range(2000):
        line = bytearray(GOOD)
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(line))
            if draw.random() < 0.5:
                line[at:at] = draw.choice(SPLICES)
            else:
                line[at : at + draw.randint(0, 2)] = bytes([draw.randrange(256)])
        if b"\n" in line:
            continue
        samples, intake = read(bytes(line), tmp_path)
        assert len(samples) + len(intake.problems) == (2 if line.strip() else 1)
        for sample in samples:
            json.dumps([sample.inputs, sample.labels, sample.subject], ensure_ascii=False).encode()


def test_half_a_surrogate_pair_is_no_text_of_a_sample_either(
    tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    with Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1) as device:
        for sample in (Sample(word="\ud800"), Sample(word="a", subject="\udfff")):
            with pytest.raises(InputError, match="is no text"):
                device.add(sample)
        assert device.status()["samples"] == 0
