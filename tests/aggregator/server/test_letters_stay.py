"""Letters of texts against who reads all that a server gets: from one vector the word is guessed, so none comes."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import solvable
import tiny
from conftest import Attack

from aggregator.institution import running
from homeroom import Device, Sample
from homeroom.contract.privacy import Privacy
from homeroom.contract.round import RoundConfiguration, StatisticsRules
from homeroom.contract.statistics.sums import Statistics
from homeroom.errors import HomeroomError
from homeroom.federation import statistics
from homeroom.runtime.bundle import open_bundle
from homeroom.train.solve.vectors.letters import letter_numbers
from homeroom.train.solve.vectors.projection import read_projections
from homeroom.train.solve.vectors.samples import sums_id
from homeroom_aggregator.admin.folder import create_folder, make_invitations
from homeroom_aggregator.server.service import Service, open_service

TASK, BLOCK = "which_picture", "word.letters"
PLAIN = StatisticsRules(mode="plain", k=2, subjects=3)
PROMISE = Privacy(clip_norm=1.0, noise_multiplier=1.0, epsilon=30.0, delta=1e-5)
TITLE = "the words of a pupil guessed from letters: by a server that asks for plain sums, in plain and private rounds"


class Reader:
    """Whoever runs the server and has the bundle: guesses which word of a list a vector of letters is of."""

    def __init__(self, bundle: tiny.Tiny) -> None:
        opened = open_bundle(bundle.path, root=None)
        section = opened.manifest.statistics
        assert section
        self.block = next(block.statistics_id for block in section.blocks if block.name == BLOCK)
        projection = read_projections(opened)[BLOCK]
        assert projection.spelling
        self.words = [f"the {animal}" for animal in tiny.ANIMALS]
        self.vectors = projection(np.stack([letter_numbers(word, projection.spelling) for word in self.words]))

    def guesses(self, sums: Statistics) -> list[str]:
        """The word of each sum of letters over right pairs, as if it were of one word alone."""
        found = []
        for cell, values in sums:
            if cell.kind == "vector" and cell.blocks == (self.block,):
                pairs = next(int(n[0]) for c, n in sums if c.kind == "count" and c.row == cell.row and c.task == TASK)
                found.append(self.words[int(((self.vectors - values / pairs) ** 2).sum(1).argmin())])
        return found

    def sees(self, sums: Statistics) -> int:
        """Sums that any letters are in."""
        return sum(self.block in cell.blocks for cell in sums.cells)


@pytest.fixture(scope="module")
def lettered(tmp_path_factory: pytest.TempPathFactory) -> tiny.Tiny:
    return solvable.with_statistics(tmp_path_factory.mktemp("letters") / "bundle", letters={TASK: False})


@contextlib.contextmanager
def school(folder: Path, bundle: tiny.Tiny, **rules: Any) -> Iterator[tuple[Service, Device]]:
    """A district that is served, and a device of it whose pupils have one word each."""
    asked = RoundConfiguration(bundle_id="0" * 64, buffer_size=2, min_devices=2, **rules)
    create_folder(folder / "district", bundle.path, institution="t", root_key=bundle.root_key, configuration=asked)
    service = open_service(folder / "district")
    with contextlib.ExitStack() as opened:
        opened.callback(service.close)
        address = opened.enter_context(running(service))
        device = opened.enter_context(Device.open(folder / "room", bundle.path, bundle.root, threads=1))
        rows = [{**row, "subject": row["word"]} for row in tiny.samples(24, 1)]
        device.add(*(Sample(**row) for row in rows))
        (invitation,) = make_invitations(folder / "district", address, [("a", "device")], consents={"a": "the head"})
        (folder / "invitation.json").write_bytes(msgspec.json.encode(invitation))
        device.join(folder / "invitation.json")
        device.train(minutes=1, epochs=1)
        yield service, device


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").mkdir()
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))


def pupils(device: Device) -> dict[str, Statistics]:
    return dict(device.store.each_subjects_sums(sums_id(device.bundle.manifest)))


@pytest.mark.attack("members", TITLE)
def test_a_server_that_asks_for_plain_sums_reads_no_letters(
    lettered: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: Attack
) -> None:
    for own_check in (
        "admin.folder.check_statistics",
        "admin.configuration_file.check_statistics",
        "merge.statistics.check_shared",
    ):
        monkeypatch.setattr(f"homeroom_aggregator.{own_check}", lambda *_: None)
    reader = Reader(lettered)
    with school(tmp_path, lettered, statistics=PLAIN) as (service, device):
        device.sync()
        statistics.agree(device.store, yes=True)
        report = device.sync().statistics
        assert report
        assert report.sent, "other tasks' sums do leave"
        got = service.rounds.statistics.totals.sum()
        assert got.cells
        guessed = {name: reader.guesses(sums) for name, sums in pupils(device).items()}
        assert guessed == {name: [name] for name in guessed}, "the reader is able to guess, had the vectors come"
        assert report.held[TASK] == statistics.LETTERS_STAY
    attack.got, attack.noticed = reader.sees(got), f"held: {report.held[TASK]}"


@pytest.mark.attack("members", TITLE)
def test_private_rounds_carry_no_sums_whatever_their_terms_say(
    lettered: tiny.Tiny, tmp_path: Path, attack: Attack
) -> None:
    with school(tmp_path, lettered, privacy=PROMISE) as (service, device):
        statistics.YES.write(device.store, PLAIN)
        broken = msgspec.structs.replace(service.rounds.configuration)
        msgspec.structs.force_setattr(broken, "statistics", PLAIN)  # terms that no honest server can state
        service.rounds.rules = dataclasses.replace(service.rounds.rules, configuration=broken)
        with pytest.raises(HomeroomError, match="plain statistics would show"):
            device.sync()
        got = service.rounds.statistics.totals.sum()
    attack.got, attack.noticed = Reader(lettered).sees(got), "plain statistics would show what private rounds hide"
