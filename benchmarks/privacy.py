"""Benchmark of private rounds: ledger, noise, learning and an attack in one run.

    python benchmarks/privacy.py --json privacy.json        three seeds, 200 devices, epsilon 1, 2, 4, 8 and none
    python benchmarks/privacy.py --quick                    one seed, epsilon 2, 8 and none, fewer trials

Training, clip, noise, ledger and merge are the product's own (`homeroom_aggregator.simulation.federate`); the lesson is
handwritten digits through a real bundle, seven pictures a device. Mechanisms (`privacy_plan.py`): noise from the
aggregator (central) or the devices (distributed); a promise to each of a device's pupils (subject); a first clip four
times too long, kept or adapted (long clip, adaptive); a quarter of the devices in each release, with noise of its own
or correlated (rotating, stream). Runs to its end whether or not the targets are met.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from dp_accounting import dp_event, privacy_accountant
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from scipy import stats

import privacy_digits as digits
from homeroom.contract.privacy import Privacy, epsilon_spent
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.signing import certify, new_key, public_hex
from homeroom.contract.update import make_update
from homeroom.privacy import discrete_gaussian
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.train.fit import fit
from homeroom_aggregator.merge.rounds import Rounds
from peers.verdict import finish, target
from privacy_attack import attack
from privacy_learning import learning
from privacy_plan import CLIP, DELTA, DEVICES, FULL, LOCAL, QUICK, Plan, promise

__all__ = ["DELTA", "measure", "promise", "targets"]

SHARE, COSINE, SUCCEEDS, SURE = 0.6, 0.3, 0.95, 1e-4


def ledger(bundle: Bundle, graphs: Graphs) -> dict[str, Any]:
    """A log of real private releases, some devices in more of them than others: the ledger against dp-accounting."""
    data = digits.load(bundle, graphs, DEVICES, 0)
    privacy = Privacy(clip_norm=CLIP, noise_multiplier=2.5, epsilon=8.0, delta=DELTA)
    configuration = RoundConfiguration(bundle_id=bundle.bundle_id, buffer_size=3, privacy=privacy)
    key, root = new_key(), new_key()
    rounds = Rounds(Path(":memory:"), bundle, configuration, key, certify(root, "aggregator", key, "benchmark"))
    keys = [new_key() for _ in range(5)]
    entered = [0] * len(keys)
    for number in range(7):
        for place in {0, 1 + number % 2, 3 + number % 2}:
            theta = fit(graphs, data.devices[place], None, rounds.state.theta, LOCAL).theta
            counts = data.devices[place].examples_by_segment()
            delta, base = theta - rounds.state.theta, rounds.state.version
            rounds.update(
                make_update(keys[place], configuration, bundle.manifest.layout, delta, counts, base),
                public_hex(keys[place]),
            )
            entered[place] += 1
    assert rounds.ledger
    pairs = [(rounds.ledger.cost(public_hex(key)), count) for key, count in zip(keys, entered, strict=True)]
    wrong = rounds.verify()
    rounds.close()
    direct = [_accounted(RdpAccountant, 2.5, count) for _, count in pairs]
    tight = [_accounted(PLDAccountant, 2.5, count) for _, count in pairs]
    return {
        "entered": entered,
        "ledger": [cost for cost, _ in pairs],
        "dp_accounting": direct,
        "device": [epsilon_spent([2.5] * count, DELTA) for count in entered],
        "privacy_loss_distribution": tight,
        "rebuilt": not wrong,
    }


def _accounted(accountant: Any, noise_multiplier: float, count: int) -> float:
    relation = privacy_accountant.NeighboringRelation.ADD_OR_REMOVE_ONE  # the same bound as for a zero in its place
    event = dp_event.SelfComposedDpEvent(dp_event.GaussianDpEvent(noise_multiplier), count)
    return float(accountant(neighboring_relation=relation).compose(event).get_epsilon(DELTA))


def noise_tests(draws: int) -> dict[str, float]:
    """Chances that a true sampler looks this odd: counts of small integers, the shape of wide noise."""
    small = discrete_gaussian.discrete_gaussian(3, draws)
    k = np.arange(-13, 14)
    chance = np.exp(-(k**2) / 18.0)
    inside = small[np.abs(small) <= 13]
    counted = stats.chisquare(np.bincount(inside + 13, minlength=27), chance / chance.sum() * len(inside))
    began = time.process_time()
    sigma = int(2.5 * CLIP * 2**20)
    wide = discrete_gaussian.discrete_gaussian(sigma, draws)
    return {
        "chi_square_p": float(counted.pvalue),
        "kolmogorov_smirnov_p": float(stats.kstest(wide / sigma, "norm").pvalue),
        "deviation_over_sigma": float(wide.std() / sigma),
        "values_a_cpu_second": draws / (time.process_time() - began),
    }


def targets(document: dict[str, Any]) -> list[dict[str, Any]]:
    """What was to be shown, computed from the figures."""
    book, tests, rows, guesses = (document[name] for name in ("ledger", "noise", "learning", "attack"))
    off = max(abs(a - b) for a, b in zip(book["ledger"], book["dp_accounting"], strict=True))
    apart = max(abs(a - b) for a, b in zip(book["device"], book["dp_accounting"], strict=True))
    below = min(a - b for a, b in zip(book["ledger"], book["privacy_loss_distribution"], strict=True))
    p = min(tests["chi_square_p"], tests["kolmogorov_smirnov_p"])
    central = [row for row in rows if row["mechanism"] in ("none", "central") and not row["in_turn"]]
    mean = {row["epsilon"]: float(np.mean(row["accuracy"])) for row in central}
    cosine = {row["epsilon"]: float(np.mean(row["cosine"])) for row in central}
    least = min(row["epsilon"] for row in rows if row["epsilon"])
    hardest = {row["mechanism"]: row for row in rows if row["epsilon"] == least}

    def gain(name: str, other: str, of: str = "accuracy") -> float:
        return float(np.mean(hardest[name][of])) - float(np.mean(hardest[other][of]))

    pupils, adapted = gain("subject", "central"), gain("adaptive", "long clip")
    streamed = gain("stream", "rotating", "cosine_end")
    over = max(row["epsilon_spent"] - row["epsilon"] for row in rows if row["epsilon"])
    bare = next(row["advantage"] for row in guesses if row["epsilon"] is None)
    noisy = [row for row in guesses if row["epsilon"]]
    beyond = max(row["advantage"] - 2 * row["standard_error"] - row["bound_epsilon"] for row in noisy)
    sharper = max(row["advantage"] - 3 * row["standard_error"] - row["bound_gaussian"] for row in noisy)
    refused = sum(row["refused"] for row in rows)
    most = max(epsilon for epsilon in mean if epsilon)
    return [
        target(
            "ledger's epsilon against dp-accounting called directly, largest difference", off, "<= 1e-12", off <= 1e-12
        ),
        target("a device's own epsilon against dp-accounting, largest difference", apart, "<= 1e-9", apart <= 1e-9),
        target("ledger's epsilon less that of privacy loss distributions, smallest", below, ">= 0", below >= 0),
        target("every version rebuilt from the log, bit for bit", book["rebuilt"], "true", book["rebuilt"]),
        target("noise: least p of two tests", p, f"> {SURE:g}", p > SURE),
        target("epsilon spent beyond the budget, largest", over, "<= 0", over <= 0),
        target(
            f"accuracy at epsilon {most:g} over that without noise",
            mean[most] / mean[None],
            f">= {SHARE}",
            mean[most] / mean[None] >= SHARE,
        ),
        target(
            f"cosine of a release at epsilon {most:g} with the true one",
            cosine[most],
            f">= {COSINE}",
            cosine[most] >= COSINE,
        ),
        target(f"accuracy at epsilon {least:g}: a promise by subject less one by device", pupils, "> 0", pupils > 0),
        target(f"accuracy at epsilon {least:g}: too long a clip, adapted less kept", adapted, "> 0", adapted > 0),
        target(
            f"cosine of the whole training at epsilon {least:g}: correlated noise less independent",
            streamed,
            "> 0",
            streamed > 0,
        ),
        target("updates refused", refused, "0", refused == 0),
        target("attack without noise: advantage", bare, f">= {SUCCEEDS}", bare >= SUCCEEDS),
        target(
            "attack with noise: advantage, less 2 standard errors, beyond its bound, largest",
            beyond,
            "<= 0",
            beyond <= 0,
        ),
        target("the same, 3 standard errors, beyond the exact bound of this noise", sharper, "<= 0", sharper <= 0),
    ]


def measure(plan: Plan, given: Path | None, tell: Any) -> dict[str, Any]:
    began = time.monotonic()
    with contextlib.ExitStack() as until_the_end:
        folder = until_the_end.enter_context(tempfile.TemporaryDirectory(prefix="homeroom-privacy-"))
        path = given or digits.make_bundle(Path(folder)).path
        bundle, graphs = digits.opened(path)
        processes = min(2, os.cpu_count() or 1)
        pool = until_the_end.enter_context(ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")))
        document: dict[str, Any] = {
            "devices": DEVICES,
            "delta": DELTA,
            "clip_norm": CLIP,
            "rounds": plan.rounds,
            "parameters": bundle.manifest.layout.size,
            "ledger": ledger(bundle, graphs),
            "noise": noise_tests(plan.draws),
            "learning": learning(pool, path, plan, tell),
            "attack": attack(pool, path, plan, tell),
        }
    document["targets"] = targets(document)
    document["minutes"] = round((time.monotonic() - began) / 60, 2)
    return document


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--bundle", type=Path, help="a bundle of the digits, in place of a new export")
    options = parser.parse_args()
    document = measure(QUICK if options.quick else FULL, options.bundle, lambda line: print(line, flush=True))
    finish(document, options.json)


if __name__ == "__main__":
    main()
