"""Does a private round keep its promise, and what does it cost? Ledger, noise, learning and an attack in one run.

    python benchmarks/privacy.py --json privacy.json        three seeds, 200 devices, epsilon 1, 2, 4, 8 and none
    python benchmarks/privacy.py --quick                    one seed, epsilon 2, 8 and none, fewer trials

Training, clip, noise, ledger and merge are the product's own (`homeroom_aggregator.simulate`); the lesson is
handwritten digits through a real bundle, seven pictures a device. The attack is the strongest that the promise is
about: a device with wrong labels is in every release or in none, and somebody who knows every other update and the
device's own says which. Runs to its end whether or not the targets are met.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from dp_accounting import dp_event, privacy_accountant
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from scipy import stats

import privacy_digits as digits
from homeroom import noise
from homeroom.bundle import Bundle, open_bundle
from homeroom.contract.privacy import Privacy, spent
from homeroom.contract.secure import SecureRules
from homeroom.contract.signing import certify, new_key, public_hex
from homeroom.contract.update import RoundConfiguration, Update, make_update, read_update
from homeroom.dataset import Dataset
from homeroom.runtime import Graphs
from homeroom.training import Settings, fit
from homeroom_aggregator import private
from homeroom_aggregator.replay import Rules, State, admit, release
from homeroom_aggregator.rounds import Rounds
from homeroom_aggregator.simulate import SchoolData, simulate

DEVICES, DELTA, CLIP = 200, 1e-5, 0.5
LOCAL = Settings(epochs=2, learning_rate=1e-2, weight_decay=0.0, constant_rate=True, balance=0.0)
RULES = SecureRules(minimum=140, cohort=DEVICES, drop_rate=0.3, corrupt_rate=0.1)
EXCESS = math.sqrt(DEVICES / RULES.honest(DEVICES, RULES.minimum))  # of distributed noise over what is counted on
SHARE, COSINE, SUCCEEDS, SURE = 0.6, 0.3, 0.95, 1e-4


@dataclass(frozen=True)
class Plan:
    """How much is run."""

    seeds: int
    epsilons: tuple[float, ...]
    rounds: int
    trials: int
    draws: int


FULL = Plan(seeds=3, epsilons=(1, 2, 4, 8), rounds=8, trials=300, draws=400_000)
QUICK = Plan(seeds=1, epsilons=(2, 8), rounds=8, trials=60, draws=100_000)


def promise(epsilon: float, rounds: int) -> Privacy:
    """The least noise with which one device may enter so many releases within epsilon."""
    low, high = 0.01, 1000.0
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if spent([middle] * rounds, DELTA) <= epsilon else (middle, high)
    return Privacy(clip_norm=CLIP, noise_multiplier=round(high + 5e-5, 4), epsilon=epsilon, delta=DELTA)


def asked(bundle: Bundle, privacy: Privacy | None) -> RoundConfiguration:
    return RoundConfiguration(bundle_id=bundle.bundle_id, buffer_size=DEVICES, privacy=privacy)


def learning(bundle: Bundle, graphs: Graphs, plan: Plan, tell: Any) -> list[dict[str, Any]]:
    """By setting: accuracy and the first release's cosine with the plain one, a value for each seed.

    distributed: all devices of a secure round survive and add their share, of which the ledger counts the honest ones';
    the sum of the shares is drawn at once, at the aggregator. Masks change nothing of it and are left out.
    """
    found: dict[tuple[str, float | None], dict[str, Any]] = {}
    settings: list[tuple[str, float | None]] = [("none", None), *(("central", e) for e in reversed(plan.epsilons))]
    settings += [("distributed", e) for e in reversed(plan.epsilons)]
    for seed in range(plan.seeds):
        data = digits.load(bundle, graphs, DEVICES, seed)
        schools = [SchoolData(str(place), device) for place, device in enumerate(data.devices)]
        true = None
        for mechanism, epsilon in settings:
            privacy = promise(epsilon, plan.rounds) if epsilon else None
            z = privacy.noise_multiplier if privacy else 0.0
            if privacy and mechanism == "distributed":
                privacy = msgspec.structs.replace(privacy, noise_multiplier=z * EXCESS)
            run = simulate(bundle, schools, plan.rounds, LOCAL, asked(bundle, privacy), seed=seed, graphs=graphs)
            moved = run.rounds[0].theta - bundle.theta()
            true = moved if true is None else true
            row = found.setdefault(
                (mechanism, epsilon), {"accuracy": [], "cosine": [], "refused": 0, "releases": run.version}
            )
            row["accuracy"].append(digits.accuracy(graphs, data.test, run.theta))
            row["cosine"].append(float(moved @ true / np.linalg.norm(moved) / np.linalg.norm(true)))
            row["refused"] += sum(len(facts.refused) for facts in run.rounds)
            if privacy:
                row |= {"noise_multiplier": privacy.noise_multiplier, "epsilon_a_round": spent([z], DELTA)}
                row["epsilon_spent"] = spent([z] * run.version, DELTA)
            told = f"accuracy {row['accuracy'][-1]:.3f}, cosine {row['cosine'][-1]:.3f}"
            tell(f"seed {seed}, {mechanism}, epsilon {epsilon}: {told}")
    return [{"mechanism": mechanism, "epsilon": e} | row for (mechanism, e), row in found.items()]


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
        "device": [spent([2.5] * count, DELTA) for count in entered],
        "privacy_loss_distribution": tight,
        "rebuilt": not wrong,
    }


def _accounted(accountant: Any, noise_multiplier: float, count: int) -> float:
    relation = privacy_accountant.NeighboringRelation.ADD_OR_REMOVE_ONE  # the same bound as for a zero in its place
    event = dp_event.SelfComposedDpEvent(dp_event.GaussianDpEvent(noise_multiplier), count)
    return float(accountant(neighboring_relation=relation).compose(event).get_epsilon(DELTA))


def noise_tests(draws: int) -> dict[str, float]:
    """Chances that a true sampler looks this odd: counts of small integers, the shape of wide noise."""
    small = noise.discrete_gaussian(3, draws)
    k = np.arange(-13, 14)
    chance = np.exp(-(k**2) / 18.0)
    inside = small[np.abs(small) <= 13]
    counted = stats.chisquare(np.bincount(inside + 13, minlength=27), chance / chance.sum() * len(inside))
    began = time.process_time()
    sigma = int(2.5 * CLIP * 2**20)
    wide = noise.discrete_gaussian(sigma, draws)
    return {
        "chi_square_p": float(counted.pvalue),
        "kolmogorov_smirnov_p": float(stats.kstest(wide / sigma, "norm").pvalue),
        "deviation_over_sigma": float(wide.std() / sigma),
        "values_a_cpu_second": draws / (time.process_time() - began),
    }


def canary(data: Dataset) -> Dataset:
    """The same pictures, each with the next digit's label."""
    found = Dataset(data.manifest, data.examples)
    found.targets["digit"] = np.roll(data.targets["digit"], 1, axis=1)
    return found


def attack(bundle: Bundle, graphs: Graphs, plan: Plan, tell: Any) -> list[dict[str, Any]]:
    """By setting, how much oftener the attack says "in" where the canary is in than where it is not."""
    data = digits.load(bundle, graphs, DEVICES, 0)
    trained = [fit(graphs, device, None, bundle.theta(), LOCAL).theta for device in data.devices[1:]]
    trained.append(fit(graphs, canary(data.devices[0]), None, bundle.theta(), LOCAL).theta)
    rows = []
    for epsilon in (None, *reversed(plan.epsilons)):
        privacy = promise(epsilon, plan.rounds) if epsilon else None
        row = {"epsilon": epsilon} | _attacked(bundle, data, trained, asked(bundle, privacy), plan)
        if privacy:
            mu = math.sqrt(plan.rounds) / privacy.noise_multiplier
            row["bound_epsilon"] = (math.expm1(epsilon) + 2 * DELTA) / (math.exp(epsilon) + 1)
            row["bound_gaussian"] = float(2 * stats.norm.cdf(mu / 2) - 1)
        rows.append(row)
        tell(
            f"attack, epsilon {epsilon}: advantage {row['advantage']:.3f} of at most {row.get('bound_epsilon', 1):.3f}"
        )
    return rows


def _attacked(
    bundle: Bundle, data: digits.Data, trained: Sequence[np.ndarray], configuration: RoundConfiguration, plan: Plan
) -> dict[str, Any]:
    layout, start = bundle.manifest.layout, bundle.theta()
    rules = Rules(layout, configuration, start)

    def update(theta: np.ndarray, device: Dataset) -> Update:
        data = make_update(new_key(), configuration, layout, theta - start, device.examples_by_segment(), 0)
        return read_update(data, configuration, layout)

    devices = [*data.devices[1:], data.devices[0]]
    updates = [update(theta, device) for theta, device in zip(trained, devices, strict=True)]
    states = {}
    for there in (False, True):
        states[there] = State(start.copy())
        for one in updates if there else updates[:-1]:
            admit(states[there], one, 0, rules, one.header.device)

    def released(there: bool, noisy: bool = True) -> np.ndarray:
        state, body = states[there].copy(), b""
        if configuration.privacy:
            body = private.noised(state.sums, layout, configuration) if noisy else _bare(state, layout)
        release(state, rules, body)
        return state.theta.astype(np.float64)

    out, within = released(False, noisy=False), released(True, noisy=False)
    direction, rng = within - out, np.random.default_rng(7)
    said: dict[bool, list[bool]] = {False: [], True: []}
    for _ in range(plan.trials):
        there = bool(rng.integers(2))
        seen = sum(float((released(there) - out) @ direction) for _ in range(plan.rounds))
        said[there].append(seen > plan.rounds * float(direction @ direction) / 2)
    right, wrong = float(np.mean(said[True])), float(np.mean(said[False]))
    error = math.sqrt(
        sum(max(p * (1 - p), 1 / len(s)) / len(s) for p, s in ((right, said[True]), (wrong, said[False])))
    )
    return {"advantage": right - wrong, "standard_error": error, "trials": plan.trials, "releases": plan.rounds}


def _bare(state: State, layout: Any) -> bytes:
    """A release without its noise, as the attacker computes it for both cases."""
    import safetensors.numpy

    sums = {layout[name].segment_id: values for name, values in state.sums.numerators.items()}
    packed: bytes = safetensors.numpy.save({**sums, private.DEVICES: np.array([1], np.int64)})
    return packed


def targets(document: dict[str, Any]) -> list[dict[str, Any]]:
    """What was to be shown, computed from the figures."""
    book, tests, rows, guesses = (document[name] for name in ("ledger", "noise", "learning", "attack"))
    off = max(abs(a - b) for a, b in zip(book["ledger"], book["dp_accounting"], strict=True))
    apart = max(abs(a - b) for a, b in zip(book["device"], book["dp_accounting"], strict=True))
    below = min(a - b for a, b in zip(book["ledger"], book["privacy_loss_distribution"], strict=True))
    p = min(tests["chi_square_p"], tests["kolmogorov_smirnov_p"])
    central = [row for row in rows if row["mechanism"] != "distributed"]
    mean = {row["epsilon"]: float(np.mean(row["accuracy"])) for row in central}
    cosine = {row["epsilon"]: float(np.mean(row["cosine"])) for row in central}
    over = max(row["epsilon_spent"] - row["epsilon"] for row in rows if row["epsilon"])
    bare = next(row["advantage"] for row in guesses if row["epsilon"] is None)
    noisy = [row for row in guesses if row["epsilon"]]
    beyond = max(row["advantage"] - 2 * row["standard_error"] - row["bound_epsilon"] for row in noisy)
    sharper = max(row["advantage"] - 3 * row["standard_error"] - row["bound_gaussian"] for row in noisy)
    most = max(epsilon for epsilon in mean if epsilon)
    return [
        _target(
            "ledger's epsilon against dp-accounting called directly, largest difference", off, "<= 1e-12", off <= 1e-12
        ),
        _target("a device's own epsilon against dp-accounting, largest difference", apart, "<= 1e-9", apart <= 1e-9),
        _target("ledger's epsilon less that of privacy loss distributions, smallest", below, ">= 0", below >= 0),
        _target("every version rebuilt from the log, bit for bit", book["rebuilt"], "true", book["rebuilt"]),
        _target("noise: least p of two tests", p, f"> {SURE:g}", p > SURE),
        _target("epsilon spent beyond the budget, largest", over, "<= 0", over <= 0),
        _target(
            f"accuracy at epsilon {most:g} over that without noise",
            mean[most] / mean[None],
            f">= {SHARE}",
            mean[most] / mean[None] >= SHARE,
        ),
        _target(
            f"cosine of a release at epsilon {most:g} with the true one",
            cosine[most],
            f">= {COSINE}",
            cosine[most] >= COSINE,
        ),
        _target("attack without noise: advantage", bare, f">= {SUCCEEDS}", bare >= SUCCEEDS),
        _target(
            "attack with noise: advantage, less 2 standard errors, beyond its bound, largest",
            beyond,
            "<= 0",
            beyond <= 0,
        ),
        _target("the same, 3 standard errors, beyond the exact bound of this noise", sharper, "<= 0", sharper <= 0),
    ]


def _target(name: str, value: Any, bound: str, met: bool) -> dict[str, Any]:
    return {"name": name, "value": value, "bound": bound, "met": bool(met)}


def measure(plan: Plan, given: Path | None, tell: Any) -> dict[str, Any]:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="homeroom-privacy-") as folder:
        bundle = open_bundle(given, root=None) if given else digits.make_bundle(Path(folder))
        graphs = digits.open_graphs(bundle)
        document: dict[str, Any] = {
            "devices": DEVICES,
            "delta": DELTA,
            "clip_norm": CLIP,
            "rounds": plan.rounds,
            "parameters": bundle.manifest.layout.size,
            "ledger": ledger(bundle, graphs),
            "noise": noise_tests(plan.draws),
            "learning": learning(bundle, graphs, plan, tell),
            "attack": attack(bundle, graphs, plan, tell),
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
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    for target in document["targets"]:
        value = f"{target['value']:.4g}" if isinstance(target["value"], float) else target["value"]
        print(f"{'met    ' if target['met'] else 'NOT MET'}  {target['name']}: {value} ({target['bound']})")
    print(f"{document['minutes']} minutes")


if __name__ == "__main__":
    main()
