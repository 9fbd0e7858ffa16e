"""A small district that really learns: devices of its schools train a tiny bundle, sync, and tell their scores.

What the pages then show is what these devices measured; nothing is made up but the schools' names, and that one school
draws the line between small and big elsewhere, another stops coming after its first round.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tiny
from aggregator.institution import running

from homeroom import Device, Sample
from homeroom.contract.round import RoundConfiguration
from homeroom.federation.enrolment import set_network
from homeroom_aggregator.admin.folder import create_folder, make_invitations, open_log, read_secret
from homeroom_aggregator.server.service import Service, open_service
from homeroom_aggregator.state import login_links

SLOTS, TASKS = ("word", "picture", "facts"), ("category", "size", "weight")  # what the schools record
HILL, LAKE, MILL, GONE = "Hill School", "Lake School", "Mill Lane Primary", "Bridge Street School"
MACHINES = (HILL, HILL, LAKE, MILL, GONE)
SAMPLES, ROUNDS = 105, 5
OWN_SCALE = ("small", 12.0, "middle", 17.0, "big")  # of one school: up to 12 kg is small there


@dataclass(frozen=True)
class District:
    service: Service
    address: str
    folder: Path

    def link(self, rank: login_links.Rank = "district") -> str:
        with contextlib.closing(open_log(self.folder)) as log:
            code = login_links.make_link(log.database, read_secret(self.folder), login_links.LoginLink(rank))
        return f"{self.address}/dashboard/enter?code={code}"


@contextlib.contextmanager
def built(folder: Path, bundle: tiny.Tiny, patch: pytest.MonkeyPatch) -> Iterator[District]:
    """The district after some rounds, served."""
    patch.setenv("HOMEROOM_KEYS", str(folder / "keys"))
    (folder / "keys").mkdir(parents=True)
    asked = RoundConfiguration(bundle_id="0" * 64, buffer_size=4, min_devices=2)
    name = "Riverside District"
    create_folder(folder / "district", bundle.path, institution=name, root_key=bundle.root_key, configuration=asked)
    service = open_service(folder / "district")
    try:
        with running(service) as address:
            district = District(service, address, folder / "district")
            _learn(district, bundle, folder)
            yield district
    finally:
        service.close()


def _learn(district: District, bundle: tiny.Tiny, folder: Path) -> None:
    with contextlib.ExitStack() as opened:
        devices = []
        for number, school in enumerate(MACHINES):
            device = opened.enter_context(Device.open(folder / f"{number}", bundle.path, bundle.root, threads=1))
            rows = tiny.samples(SAMPLES, number + 11, subjects=SAMPLES)
            device.add(*(_lesson(row, own_scale=school == MILL) for row in rows))
            _join(district, device, folder / f"{number}.json", school)
            devices.append(device)
        for turn in range(ROUNDS):
            here = devices if turn == 0 else devices[:-1]
            for device in here:
                device.train(minutes=1, epochs=2)
                device.sync()
            for device in here:
                device.sync()
        for device in devices[:2]:  # the next version has begun
            device.train(minutes=1, epochs=1)
            device.sync()
        late = opened.enter_context(Device.open(folder / "late", bundle.path, bundle.root, threads=1))
        _join(district, late, folder / "late.json", "Oak Street School", consent="")
    waiting = "Station Road School"
    make_invitations(district.folder, district.address, [(waiting, "device")], consents={waiting: "form of 2 Nov"})


def _lesson(row: dict[str, Any], *, own_scale: bool) -> Sample:
    labels = {task: row["labels"][task] for task in TASKS if task in row["labels"]}
    if own_scale and "size" in labels:
        small, upto, middle, most, big = OWN_SCALE
        labels["size"] = small if labels["weight"] < upto else middle if labels["weight"] < most else big
    return Sample(**{slot: row[slot] for slot in (*SLOTS, "subject") if slot in row}, labels=labels)


def _join(district: District, device: Device, path: Path, school: str, consent: str = "head's letter") -> None:
    consents = {school: consent} if consent else None
    (made,) = make_invitations(district.folder, district.address, [(school, "device")], consents=consents)
    path.write_bytes(msgspec.json.encode(made))
    device.join(path)
    set_network(device.store, scores="tell")
