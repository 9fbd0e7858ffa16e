"""Checkpoints: a round state as bytes and back, bit for bit, for a replay to start from.

32 bytes   SHA-256 of the rest
4 bytes    length of the header, little-endian
header     JSON: version, pending, by segment its weight and the devices that fed it, the clip where it adapts; by the
           bounded rule the updates that wait, by entry, and the last bounds
rest       safetensors: `theta` float32 [P], `sum/<segment>` int64 [size], of optimizers `moment/<name>/<segment>`, and
           `own/<segment>`, float32 [size], of schools' own segments; those are named as by `sum_key`
"""

from __future__ import annotations

import hashlib
import struct

import msgspec
import numpy as np
import safetensors.numpy

from homeroom.contract.layout import Layout
from homeroom.errors import StoreError
from homeroom_aggregator.merge.round_state import RoundState, SchoolSegments
from homeroom_aggregator.merge.segment_sums import SegmentSums, WaitingUpdate, school_of_key, sum_key, tier_slice_of
from homeroom_aggregator.merge.server_optimizers import Moments


class _Header(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    pending: int
    weights: dict[str, int]
    devices: dict[str, list[str]]
    clip: int | msgspec.UnsetType = msgspec.UNSET  # where it adapts
    waiting: dict[int, WaitingUpdate] | msgspec.UnsetType = msgspec.UNSET  # of the bounded rule, as are `bounds`
    bounds: dict[str, int] | msgspec.UnsetType = msgspec.UNSET


def pack(state: RoundState) -> bytes:
    """The state's bytes; the same state gives the same."""
    sums, clip = state.sums, state.clip or msgspec.UNSET
    weights, devices = dict(sorted(sums.weights.items())), {n: sorted(fed) for n, fed in sorted(sums.devices.items())}
    norms = {number: sums.waiting[number] for number in sorted(sums.waiting)}
    waiting = {n: msgspec.structs.replace(one, norms=dict(sorted(one.norms.items()))) for n, one in norms.items()}
    header = _Header(
        version=state.version,
        pending=state.pending,
        weights=weights,
        devices=devices,
        clip=clip,
        waiting=waiting or msgspec.UNSET,
        bounds=dict(sorted(state.bounds.items())) or msgspec.UNSET,
    )
    tensors = {"theta": state.theta} | {f"sum/{name}": values for name, values in sorted(sums.numerators.items())}
    for segment, moments in sorted(state.moments.items()):
        tensors |= {f"moment/{name}/{segment}": values for name, values in sorted(moments.items())}
    for school, own in sorted(state.own.items()):
        tensors |= {f"own/{sum_key(segment, school)}": values for segment, values in sorted(own.items())}
    head = msgspec.json.encode(header)
    body: bytes = struct.pack("<I", len(head)) + head + safetensors.numpy.save(tensors)
    return hashlib.sha256(body).digest() + body


def unpack(data: bytes, layout: Layout) -> RoundState:
    """The state of a checkpoint; StoreError unless it is whole and fits the layout."""
    broken = StoreError("a checkpoint is damaged", where="log.db", remedy="restore the last backup")
    if hashlib.sha256(data[32:]).digest() != data[:32]:
        raise broken
    header, length = _read_header(data)
    tensors = safetensors.numpy.load(data[36 + length :])
    theta = tensors.pop("theta")
    sums = SegmentSums()
    moments: dict[str, Moments] = {}
    schools: dict[str, SchoolSegments] = {}
    for key, values in tensors.items():
        kind, _, name = key.partition("/")
        if kind == "sum":
            sums.numerators[name] = values.copy()
        elif kind == "own":
            schools.setdefault(school_of_key(name), {})[tier_slice_of(name)] = values.copy()
        else:
            moment, _, segment = name.partition("/")
            moments.setdefault(segment, {})[moment] = values.copy()
    sums.weights, sums.devices = header.weights, {name: set(fed) for name, fed in header.devices.items()}
    if theta.shape != (layout.size,) or theta.dtype != np.float32:
        raise broken
    clip = 0 if header.clip is msgspec.UNSET else header.clip
    sums.waiting = header.waiting or {}
    return RoundState(theta.copy(), header.version, header.pending, sums, moments, clip, schools, header.bounds or {})


def waiting_entries(data: bytes) -> list[int]:
    """Numbers of the log's entries whose bodies a checkpoint's state still waits to read; not checked."""
    return sorted(_read_header(data)[0].waiting or {})


def _read_header(data: bytes) -> tuple[_Header, int]:
    (length,) = struct.unpack("<I", data[32:36])
    return msgspec.json.decode(data[36 : 36 + length], type=_Header), length
