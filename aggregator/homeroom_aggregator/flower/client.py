"""The ClientApp: one device's directory as a Flower node.

Node configuration: `device`, the directory; and where the device has not joined, `invitation`, the file. Everything a
device promises holds here too: it trains with its own budget, and only what `homeroom device offline out` would write
leaves it, sealed to the aggregator.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from homeroom import Device
from homeroom.contract.canonical_json import decode
from homeroom.contract.offline_folder import RECEIVER_LIMIT_BYTES, OfflineFolder, read
from homeroom.contract.offline_message import OFFLINE_MESSAGE_LIMIT_BYTES
from homeroom.contract.sealed_box import SealingKey
from homeroom.contract.signing import public_hex
from homeroom.device.install import installed_bundle
from homeroom.errors import InputError, NetworkError, TrainError
from homeroom.federation.enrolment import device_key
from homeroom.system.files import write_durable
from homeroom_aggregator.flower.records import answering, packed, unpacked


def train(message: Message, context: Context) -> RecordDict:
    """Take in the answer to the last message, train, and write the next; a device that has not joined asks to join."""
    content = unpacked(message)
    where, limit = f"run {context.run_id}", RECEIVER_LIMIT_BYTES
    receiver = decode(content["receiver"], SealingKey, limit_bytes=limit, where=where, error=NetworkError)
    with _opened(context) as device:
        _take_in(device, content["answer"])
        if not device.status()["joined"]:
            device.join_by_hand(_named(context, "invitation"))
        elif not device.status()["updates_waiting"]:  # what waits may have arrived already: first its receipt
            try:
                device.train(minutes=content["minutes"], epochs=content["epochs"] or None)
            except TrainError as problem:
                print(f"not trained: {problem}")  # Flower's own log of this node
        with tempfile.TemporaryDirectory() as folder:
            OfflineFolder(Path(folder), _root(device)).put_receiver(receiver)
            return packed(letter=read(device.carry_out(folder).path, OFFLINE_MESSAGE_LIMIT_BYTES))


def evaluate(message: Message, context: Context) -> RecordDict:
    """Take in the answer to the last message of a run."""
    with _opened(context) as device:
        _take_in(device, unpacked(message)["answer"])
    return packed(taken=True)


def _take_in(device: Device, answer: bytes) -> None:
    """Receipts, and the newest version if it is not clearly worse here; nothing where no answer came."""
    key = device_key(device.store)
    if not answer or key is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        write_durable(OfflineFolder(Path(folder), _root(device)).answer(public_hex(key)), answer)
        device.carry_in(folder)


def _opened(context: Context) -> Device:
    return Device.open(_named(context, "device"))


def _root(device: Device) -> str:
    known = installed_bundle(device.store)
    assert known is not None  # a device has a bundle
    return known.root


def _named(context: Context, name: str) -> Path:
    value = context.node_config.get(name)
    if not value:
        raise InputError(f"this node names no {name}", remedy=f"flower-supernode --node-config '{name}=\"…\"'")
    return Path(str(value))


app = ClientApp()
app.train()(answering(train))
app.evaluate()(answering(evaluate))
