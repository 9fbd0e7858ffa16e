"""A small institution for tests: a bundle without graphs, an aggregator's folder, devices with keys."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import safetensors.numpy
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom import Device
from homeroom.contract.canonical_json import canonical, digest_file
from homeroom.contract.layout import Parameter, Segment
from homeroom.contract.manifest import File, Manifest, Modality, Slot, TablePreprocess, Task, Tolerance
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.signing import certify, new_key
from homeroom.contract.statistics.section import Block, Section
from homeroom.contract.update import make_update
from homeroom.federation import versions
from homeroom.federation.network.client import Client, join
from homeroom.runtime.bundle import write_signature
from homeroom_aggregator.admin.folder import create_folder, make_invitations
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.server import serve
from homeroom_aggregator.server.service import Service
from homeroom_aggregator.state.members import Role

ROOT, EXPORTER = new_key(), new_key()
START = np.linspace(-1, 1, 10, dtype=np.float32)
SEGMENTS = (
    Segment(name="ladder.table", parameters=(Parameter("w", (2, 2)),), meaning="test/1", modality="table"),
    Segment(name="head.grade", parameters=(Parameter("w", (3,)),), meaning="test/1", task="grade"),
    Segment(name="own", parameters=(Parameter("w", (3,)),), meaning="test/1", scope="personal", widest="personal"),
)


SECTION = Section(
    file="statistics.safetensors",
    blocks=(
        Block(statistics_id="5" * 64, kind="table", slots=("facts",), width=4, dimension=3),
        Block(statistics_id="6" * 64, kind="table", slots=("more",), width=4, dimension=2),
    ),
)
LABELS = ("a", "b", "c", "d")


def write_bundle(path: Path, *, name: str = "lesson", version: int = 1, statistics: bool = False) -> Path:
    """A signed bundle with three segments, one of them personal, and no graph.

    statistics: with two blocks of statistics, four labels, and a second task, of numbers.
    """
    (path / "golden").mkdir(parents=True)
    (path / "golden" / "samples.jsonl").write_text("")
    (path / "theta.safetensors").write_bytes(safetensors.numpy.save({"theta": START}))
    modality = Modality(
        name="table",
        features_id="1" * 64,
        encoder="test",
        taps=("row",),
        dim=2,
        buckets=(1,),
        preprocess=TablePreprocess(columns=()),
        tolerance=Tolerance(0.9, 0.9),
    )
    files = {
        file: File(digest_file(path / file), (path / file).stat().st_size)
        for file in ("theta.safetensors", "golden/samples.jsonl")
    }
    manifest = Manifest(
        format=1,
        name=name,
        version=version,
        files=files,
        modalities=(modality,),
        slots=(Slot("facts", "table"),),
        tasks=(Task(name="grade", kind="classification", reads=("facts",), labels=("a", "b"), width=2),),
        segments=SEGMENTS,
        graphs=(),
        theta="theta.safetensors",
        golden="golden",
    )
    if statistics:
        (path / SECTION.file).write_bytes(b"")
        tasks = (
            Task(name="grade", kind="classification", reads=("facts", "more"), labels=LABELS, width=len(LABELS)),
            Task(name="size", kind="regression", reads=("facts",), width=1),
        )
        manifest = msgspec.structs.replace(
            manifest,
            files={**files, SECTION.file: File(digest_file(path / SECTION.file), 0)},
            slots=(Slot("facts", "table"), Slot("more", "table")),
            tasks=tasks,
            statistics=SECTION,
        )
    (path / "manifest.json").write_bytes(canonical(manifest))
    write_signature(path, manifest, certify(ROOT, "exporter", EXPORTER, "tests"), EXPORTER)
    return path


def make_folder(tmp: Path, name: str = "District 7", **configuration: Any) -> Path:
    """An aggregator's folder for that bundle; two updates a release, two devices, unless said otherwise."""
    settings = {"bundle_id": "0" * 64, "buffer_size": 2, "min_devices": 2, **configuration}
    asked = RoundConfiguration(**settings)
    bundle = tmp / "bundle"
    if not bundle.exists():
        write_bundle(bundle, statistics="statistics" in configuration)
    create_folder(tmp / "district", bundle, institution=name, root_key=ROOT, configuration=asked)
    return tmp / "district"


@dataclass(frozen=True)
class School:
    """A device's key, and the updates it makes."""

    key: Ed25519PrivateKey = field(default_factory=new_key)

    @property
    def name(self) -> str:
        return self.key.public_key().public_bytes_raw().hex()

    def update(
        self, configuration: RoundConfiguration, delta: np.ndarray | float = 0.5, base: int = 0, **examples: int
    ) -> bytes:
        """An update of every segment that `examples` names (`ladder_table=4`); all shared ones unless told."""
        from homeroom.contract.layout import Layout

        counts = {name.replace("_", ".", 1): n for name, n in examples.items()} or {"ladder.table": 4, "head.grade": 4}
        values = np.broadcast_to(np.asarray(delta, np.float32), START.shape)
        return make_update(self.key, configuration, Layout(SEGMENTS), values, counts, base)


def learn(device: Device, step: float, subjects: Sequence[str] = ()) -> None:
    """A training, without graphs: every shared value moves by `step`."""
    newest = versions.newest_global(device.store, device.bundle)
    theta = versions.theta_of(device.store, device.bundle, newest) + np.float32(step)
    facts = versions.version_facts(
        device.bundle, examples={"ladder.table": 4, "head.grade": 4}, temperatures={}, settings={}
    )
    base = newest.base if newest else 0
    device.store.versions.set_current(device.store.versions.put(theta, "local", base, facts, subjects))


def latest(client: Client, after: int) -> bytes | None:
    """The newest version as devices of 0.1.0 ask for it; None if there is none newer than `after`."""
    response = client.ask("GET", "/v1/versions/latest", headers=lambda: {"if-none-match": f'"{after}"'})
    return response.body if response.status == 200 else None


def announce(rounds: Rounds, **fields: Any) -> None:
    """Let the server announce another configuration than its log has."""
    configuration = msgspec.structs.replace(rounds.configuration, **fields)
    rounds.rules = dataclasses.replace(rounds.rules, configuration=configuration)


def enrol(service: Service, address: str, school: str = "", role: Role = "device", **more: Any) -> Client:
    """A new key, enrolled in the service's folder."""
    (invitation,) = make_invitations(service.rounds.log.database.path.parent, address, [(school, role)], **more)
    key = new_key()
    return Client(join(invitation, key), key)


# Below those that a system gives to whoever asks for any, such as each client of a test beside this one.
STAYING_PORTS = itertools.count(10_000 + os.getpid() * 10 % 20_000)


def staying_port() -> int:
    """A port of this machine that nobody else takes, for a server that a test starts again."""
    for port in STAYING_PORTS:
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError


async def _main_loop(server: uvicorn.Server) -> None:
    """Uvicorn's, which looks ten times as often whether it is to end."""
    tick = 0
    while not await server.on_tick(tick):
        tick += 1
        await asyncio.sleep(0.01)


@contextmanager
def running(service: Service, certificate: Path | None = None, key: Path | None = None) -> Iterator[str]:
    """The real server on a free port of this machine; its address."""
    listening = serve.listen("127.0.0.1", 0)
    server = serve.make_server(service, certificate, key)
    server.main_loop = lambda: _main_loop(server)  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)
        listening.close()
