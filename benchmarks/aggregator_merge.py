"""Worker of benchmarks/aggregator.py: merges COUNT updates of 1 MB, one in memory at a time; prints one JSON object.

The updates are signed files on disk, read again and again. Three steps are timed apart, in seconds of the processor:
verifying and checking an update (`read_update`), adding it (`merge.round_state.add_update`, as the server does), and a
bare numpy running sum over the same int32 values into int64. With `flower` the interpreter is one that has flwr, and
its `aggregate_inplace` is timed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

VALUES, SEGMENTS, FILES = 262_144, 4, 16  # int32: 1 MiB an update
BLOCK = 8  # updates after which the other sum goes first, so that neither always finds the values in the cache


def peak_mb() -> float:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def layout() -> Any:
    from homeroom.contract.layout import Layout, Parameter, Segment

    part = VALUES // SEGMENTS
    return Layout(tuple(Segment(name=f"s{n}", parameters=(Parameter("w", (part,)),), meaning="b") for n in range(4)))


def configuration() -> Any:
    from homeroom.contract.round import RoundConfiguration

    return RoundConfiguration(bundle_id="0" * 64, buffer_size=1 << 30, max_norm=1e9, max_staleness=1 << 30)


def write_updates(folder: Path) -> None:
    from homeroom.contract.signing import new_key
    from homeroom.contract.update import make_update

    rng = np.random.default_rng(0)
    for number in range(FILES):
        delta = rng.normal(0, 0.05, VALUES).astype(np.float32)
        counts = {f"s{n}": 20 + 7 * number for n in range(SEGMENTS)}
        (folder / f"{number}.update").write_bytes(make_update(new_key(), configuration(), layout(), delta, counts, 0))


def merge(folder: Path, count: int) -> dict[str, Any]:
    from homeroom.contract.update_checks import read_update
    from homeroom_aggregator.merge.round_state import MergeRules, RoundState, add_update

    rules = MergeRules(layout(), configuration(), np.zeros(VALUES, np.float32))
    state, bare = RoundState(rules.start.copy()), np.zeros(VALUES, np.int64)
    checks_s = ours_s = bare_s = 0.0
    paths = [folder / f"{n}.update" for n in range(FILES)]
    before, marks = peak_mb(), []
    for number in range(count):
        data = paths[number % FILES].read_bytes()
        start = time.process_time()
        update = read_update(data, rules.configuration, rules.layout)
        checked = time.process_time()
        turns = ["ours", "bare"] if (number // BLOCK) % 2 else ["bare", "ours"]
        for turn in turns:
            begun = time.process_time()
            if turn == "ours":
                add_update(state, update, 0, rules, update.header.device)
                ours_s += time.process_time() - begun
            else:
                for place, values in enumerate(update.values.values()):
                    bare[place * len(values) : (place + 1) * len(values)] += values
                bare_s += time.process_time() - begun
        checks_s += checked - start
        if number in (count // 4, count - 1):
            marks.append(peak_mb())
    assert state.pending == count
    return {
        "count": count,
        "merge_ms": 1000 * ours_s / count,
        "bare_numpy_ms": 1000 * bare_s / count,
        "decode_and_checks_ms": 1000 * checks_s / count,
        "peak_mb": peak_mb(),
        "before_mb": before,
        "growth_after_first_quarter_mb": marks[-1] - marks[0],
    }


def flower(count: int) -> dict[str, Any]:
    """`aggregate_inplace` over results of 1 MB in float32, as its FedAvg calls it; decoding is part of it there."""
    import flwr
    from flwr.common import Code, FitRes, Status, ndarrays_to_parameters
    from flwr.server.strategy.aggregate import aggregate_inplace

    rng = np.random.default_rng(0)
    arrays = [
        [rng.normal(0, 0.05, VALUES // SEGMENTS).astype(np.float32) for _ in range(SEGMENTS)] for _ in range(FILES)
    ]
    results = [
        (None, FitRes(Status(Code.OK, ""), ndarrays_to_parameters(arrays[n % FILES]), 20 + 7 * (n % FILES), {}))
        for n in range(count)
    ]
    start = time.process_time()
    aggregate_inplace(results)
    return {"count": count, "ms": 1000 * (time.process_time() - start) / count, "flwr": flwr.__version__}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("write", "merge", "flower"))
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--count", type=int, default=0)
    args = parser.parse_args()
    if args.what == "write":
        write_updates(args.folder)
        return 0
    found = merge(args.folder, args.count) if args.what == "merge" else flower(args.count)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
