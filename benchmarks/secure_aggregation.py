"""Benchmark of secure rounds: exact sums with drop-outs, masking against raw keystream, a round against Flower's.

    python benchmarks/secure_aggregation.py --json secure.json    everything; about ten minutes on two idle cores
    python benchmarks/secure_aggregation.py --quick               small cohorts, a minute; targets are then a hint only
    make bench-secure                                             makes the environment for Flower's SecAgg+ too

Every device runs the product's own steps (`homeroom.privacy.secagg.client`), without a network; so does Flower, whose
own client and server code runs in the interpreter that --flower names (`.venv-flower`). If that is not there, its
targets are not measured. Medians of repeated runs. Masking is in CPU seconds, so that a busy machine changes it
little; rounds are in seconds of the clock.

In the exact sums the drop-outs of one cohort branch off one run: every device's steps before that phase run once, and
a signature that one device of the process has verified is not verified again by the next (in all timed comparisons it
is). The branches are computed in as many processes as there are cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from secagg_clients import Round, gather  # noqa: E402

from homeroom.contract.secagg import SecureRules, pack  # noqa: E402
from homeroom.errors import TrustError  # noqa: E402
from homeroom.privacy.secagg import client as steps  # noqa: E402
from homeroom.privacy.secagg import masks  # noqa: E402
from homeroom_aggregator.secagg.unmask import Unmasking, unmask_sum  # noqa: E402
from peers.verdict import limited, shown  # noqa: E402

VALUES = 250_000  # 1 MB of float32
FLOWER = HERE.parent / ".venv-flower" / "bin" / "python"
PHASES = ("shares", "input", "consent", "reveal")
LIMIT_S = 3600


def seconds(work: Callable[[], Any]) -> float:
    """CPU seconds."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


# Exact sums


def sum_of(found: Round, leaving: dict[str, set[int]]) -> tuple[np.ndarray | None, float]:
    """Go through a round with these absent from each phase on; its sum, if it has one, and the server's seconds."""
    found.share(leaving.get("shares", ()))
    found.mask(leaving.get("input", ()))
    found.consent(leaving.get("consent", ()))
    return opened(found, leaving.get("reveal", ()))


def opened(found: Round, absent: Collection[int] = ()) -> tuple[np.ndarray | None, float]:
    """The last phase: the sum, if it can be opened without these, and the server's CPU seconds."""
    revealed = found.reveal(absent)
    begin = time.process_time()
    opening = Unmasking(found.view, found.notice.round_id, found.sharers, found.inputs)
    for place, reveal in revealed.items():
        opening.add(place, reveal)
    terms = found.view.sum_layout(found.devices[0].state.minimum)
    result = None if opening.missing else unmask_sum(found.inputs.values(), terms, opening)
    return result, time.process_time() - begin


def branch(found: Round) -> Round:
    """The same round at the same moment, to be gone on with in another way; what devices know is never changed."""
    return dataclasses.replace(
        found,
        devices=[dataclasses.replace(device) for device in found.devices],
        sealed={place: dict(box) for place, box in found.sealed.items()},
        inputs=dict(found.inputs),
        consents=list(found.consents),
    )


def right(found: Round, result: np.ndarray | None) -> bool:
    """Whether a sum is that of the survivors' plain updates, to the last bit."""
    return result is not None and bool(np.array_equal(result, found.plain_sum(found.inputs)))


@dataclasses.dataclass(frozen=True)
class Cases:
    """Of one cohort: before anything, and after each phase that everybody was there for; who leaves, and when."""

    gathered: Round
    shared: Round
    masked: Round
    agreed: Round
    leaving: list[tuple[str, frozenset[int]]]

    def run(self, number: int) -> dict[str, Any]:
        """One case, from the last moment at which all were there."""
        phase, gone = self.leaving[number]
        if phase == "shares":
            found = branch(self.gathered)
            found.share(gone)
            found.mask()
            found.consent()
        elif phase == "input":
            found = branch(self.masked)
            found.inputs = {place: vector for place, vector in found.inputs.items() if place not in gone}
            found.consent()
        else:
            found = branch(self.agreed)
            if phase == "consent":
                found.consents = [one for one in found.consents if one.place not in gone]
        result, spent = opened(found, gone if phase == "reveal" else ())
        exact, devices = right(found, result), len(found.devices)
        return {"devices": devices, "phase": phase, "dropped": len(gone), "exact": exact, "server_seconds": spent}


def cases_of(devices: int) -> Cases:
    rules = SecureRules(minimum=3, drop_rate=0.3, corrupt_rate=0.05 if devices > 100 else 0.1)
    rng, leaving = np.random.default_rng(devices), [("nobody", frozenset[int]())]
    for phase in PHASES:
        for rate in (0.1, 0.3):
            leaving.append((phase, frozenset(rng.choice(devices, int(rate * devices), replace=False).tolist())))
    gathered = gather(devices, 200, rules=rules)
    shared = branch(gathered)
    shared.share()
    masked = branch(shared)
    masked.mask()
    agreed = branch(masked)
    agreed.consent()
    return Cases(gathered, shared, masked, agreed, leaving)


RUNNING: list[Cases] = []  # the cases that forked processes take theirs from


def run_case(number: int) -> dict[str, Any]:
    return RUNNING[-1].run(number)


def exactness(sizes: tuple[int, ...], say: Callable[[str], None]) -> list[dict[str, Any]]:
    """0, 10 and 30 % drop-outs in every phase."""
    rows, checked = [], steps.verify
    steps.verify = cache_of(checked)  # type: ignore[assignment]
    try:
        for devices in sizes:
            RUNNING.append(cases_of(devices))
            with multiprocessing.get_context("fork").Pool() as pool:
                for row in pool.imap(run_case, range(len(RUNNING[-1].leaving)), chunksize=1):
                    rows.append(row)
                    told = f"{devices} devices, {row['dropped']} absent from {row['phase']} on"
                    say(f"{told}: {'exact' if row['exact'] else 'NO SUM'}, {row['server_seconds']:.1f} s of the server")
    finally:
        steps.verify = checked
    return rows


def cache_of(verify: Callable[..., None]) -> Callable[..., None]:
    """The check of a signature, done once for the same words; what does not hold raises each time."""
    once = cache(lambda key, purpose, words, signature: verify(key, purpose, words, signature, where="benchmark"))

    def instead(key: str, purpose: str, words: bytes, signature: str, *, where: str) -> None:
        once(key, purpose, words, signature)

    return instead


def beyond(say: Callable[[str], None]) -> dict[str, bool]:
    """Past the promise: whether each phase fails closed, without a sum."""
    closed = {}
    for phase in PHASES:
        found = gather(20, 200, rules=SecureRules(minimum=3))
        gone = set(range(20 - found.view.parameters.quorum + 1))
        try:
            opened = sum_of(found, {phase: gone})[0] is not None
        except TrustError:
            opened = False
        closed[phase] = not opened
        say(f"20 devices, {len(gone)} absent from {phase} on: {'a sum!' if opened else 'fails closed'}")
    return closed


# Masking


def masking(neighbours: int, values: int, times: int) -> dict[str, float]:
    """Seconds for raw keystream, for masking with agreed keys, and with the agreement of the keys, same neighbours."""
    found = gather(neighbours + 1, values)
    found.share()
    place = neighbours // 2
    device, view = found.devices[place], found.view
    terms = view.sum_layout(device.state.minimum)
    plain = found.encoder(place)(terms)
    partners = view.graph.neighbours(place)
    added, taken = steps.mask_keys(device.state, view, place, partners)
    size = plain.nbytes
    buffer = bytearray(masks.CHUNK_BYTES + 15)

    def raw() -> None:
        for key in (*added, *taken):
            stream = masks.keystream(key)
            for start in range(0, size, masks.CHUNK_BYTES):
                stream.update_into(masks.ZEROS[: size - start], buffer)

    def mask() -> None:
        vector = plain.copy()
        masks.add_masks(vector, added, taken)
        masks.pack(vector, terms.width)

    def agree() -> None:
        steps.mask_keys(device.state, view, place, partners)

    pairs = [(seconds(raw), seconds(mask), seconds(agree)) for _ in range(times)]
    keystream, masked, agreed = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {
        "neighbours": neighbours,
        "values": terms.count,
        "keystream_seconds": keystream,
        "mask_seconds": masked,
        "agree_seconds": agreed,
        "ratio": statistics.median(m / k for k, m, _ in pairs),
        "ratio_with_agreement": statistics.median((m + a) / k for k, m, a in pairs),
    }


# A whole round


def whole_round(devices: int, values: int, dropped: int) -> dict[str, float]:
    """Seconds of every device and the server together, keys to sum, as Flower's is measured; and bytes of a device."""
    rules = SecureRules(minimum=3, drop_rate=0.3, corrupt_rate=0.05 if devices > 100 else 0.1)
    found = gather(devices, values, rules=rules)
    made = time.perf_counter()
    for device in found.devices:  # the keys are part of the round, the updates are not
        steps.advertise(found.notice, found.roster, found.shape, device.key, update_id="0" * 32, segments=b"\x03")
    gone = set(range(dropped))
    result, server = sum_of(found, {"input": gone})
    spent = time.perf_counter() - made
    assert right(found, result)
    member = found.devices[-1].state
    inbox = found.inbox(devices - 1)
    sent = len(pack(member.advertisement)) + len(pack(member.shares)) + len(found.inputs[devices - 1]) + 64
    sent += 17 * len(member.held)
    received = len(pack(found.cohort)) + len(pack(inbox)) + 70 * found.view.parameters.quorum + 2 * devices
    return {
        "devices": devices,
        "neighbours": found.view.parameters.degree,
        "threshold": found.view.parameters.threshold,
        "seconds": spent,
        "server_seconds": server,
        "sent_bytes": sent,
        "received_bytes": received,
        "vector_bytes": 4 * values,
    }


def flower(python: Path, **settings: int) -> dict[str, Any] | None:
    """Flower's own figures from its own interpreter, or None where there is none."""
    if not python.exists():
        return None
    command = [str(python), str(HERE / "secure_flower.py"), json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, env=os.environ | {"PYTHONPATH": ""})
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
        return None
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write every figure and the targets here")
    parser.add_argument("--quick", action="store_true", help="small cohorts: minutes; targets are then a hint only")
    parser.add_argument("--flower", type=Path, default=FLOWER, help="interpreter that has flwr")
    args = parser.parse_args()
    sizes = (10, 40) if args.quick else (10, 100, 500)
    values, times = VALUES, 5 if args.quick else 15
    devices, dropped = (12, 2) if args.quick else (24, 4)

    def say(line: str) -> None:
        print(line, flush=True)

    sums = exactness(sizes, say)
    closed = beyond(say)
    masked = masking(29, values, times)
    say(
        f"masking {masked['values']:,} values for 29 neighbours: {masked['mask_seconds'] * 1e3:.1f} ms of CPU, "
        f"raw keystream {masked['keystream_seconds'] * 1e3:.1f} ms: {masked['ratio']:.2f}x "
        f"({masked['ratio_with_agreement']:.2f}x with the agreement of the keys)"
    )
    growth = [whole_round(n, 10_000, 0) for n in ((10, 20, 40) if args.quick else (10, 30, 100, 500))]
    for row in growth:
        say(
            f"{row['devices']} devices: {row['sent_bytes']:,} bytes sent, {row['received_bytes']:,} received by each, "
            f"server {row['server_seconds']:.2f} s"
        )
    ours, theirs = [], []
    for _ in range(1 if args.quick else 3):
        ours.append(whole_round(devices, values, dropped))
        theirs.append(
            flower(
                args.flower,
                devices=devices,
                values=values,
                neighbours=int(ours[-1]["neighbours"]),
                threshold=int(ours[-1]["threshold"]),
                dropped=dropped,
                times=times,
            )
        )
        say(
            f"a round of {devices} devices, {dropped} dropped out: {ours[-1]['seconds']:.1f} s; Flower: "
            + (f"{theirs[-1]['seconds']:.1f} s" if theirs[-1] else "NOT MEASURED, no flwr (make .venv-flower/.ready)")
        )
    measured = [found for found in theirs if found]
    mine = median_of(ours, "seconds")
    faster = median_of(measured, "seconds") / mine if measured else None
    masks_faster = None
    if measured:
        same = masking(int(measured[0]["neighbours"]), values, times)
        masks_faster = median_of(measured, "mask_seconds") / (same["mask_seconds"] + same["agree_seconds"])
    exact = sum(row["exact"] for row in sums) / len(sums)
    targets = [
        limited("sums that are exact, 0 to 30 % drop-outs in every phase", exact, 1.0, at_least=True),
        limited("phases that fail closed past the promise", sum(closed.values()) / len(closed), 1.0, at_least=True),
        limited("masking against raw keystream for the same neighbours", masked["ratio"], 1.5),
        limited("masking, times faster than Flower's", masks_faster, 1.6, at_least=True),
        limited("a whole round, times faster than Flower's SecAgg+", faster, 3.0, at_least=True),
    ]
    document = {
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "settings": {"quick": args.quick, "sizes": sizes, "values": values, "devices": devices, "dropped": dropped},
        "sums": sums,
        "fails_closed": closed,
        "masking": masked,
        "growth": growth,
        "rounds": ours,
        "flower": theirs,
        "targets": targets,
    }
    if args.json:
        args.json.write_text(json.dumps(document, indent=1) + "\n")
    for one in targets:
        say(shown(one))


def median_of(rows: list[dict[str, Any]], name: str) -> float:
    return statistics.median(float(row[name]) for row in rows)


if __name__ == "__main__":
    main()
