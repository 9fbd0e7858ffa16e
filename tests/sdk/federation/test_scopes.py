"""What leaves a device, and to whom: the bundle's scopes, narrowed by the institution's policy."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import tiny

from homeroom import Device, Sample
from homeroom.cli.main import main
from homeroom.contract.policy import Policy, sign_policy
from homeroom.contract.privacy import Privacy
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.signing import certify, new_key, write_key
from homeroom.contract.update_checks import read_update
from homeroom.contract.version import make_version
from homeroom.data.tasks.metrics import Score
from homeroom.errors import InputError, TrustError
from homeroom.federation import sync, versions
from homeroom.train.settings import Settings

FAST = Settings(epochs=2)
SCHOOL = new_key()


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))


@pytest.fixture
def device(tiny_bundle: tiny.Tiny, tmp_path: Path) -> Any:
    with Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1) as opened:
        opened.add(*(Sample(**row) for row in tiny.samples(18, 0, subjects=3)))
        yield opened


def write_policy(folder: Path, made: tiny.Tiny, name: str = "School 12", version: int = 1, **rules: Any) -> Path:
    word = certify(made.root_key, "institution", SCHOOL, name)
    path = folder / f"policy-{name}-{version}.json"
    path.write_bytes(sign_policy(Policy(institution=name, version=version, **rules), SCHOOL, word))
    return path


def join(device: Device, made: tiny.Tiny, aggregator: str, **asked: Any) -> None:
    """As after `join`, with an aggregator of that name."""
    configuration = RoundConfiguration(bundle_id=made.bundle_id, **asked)
    word = certify(made.root_key, "aggregator", made.aggregator_key, aggregator)
    device.store.put_secret("identity.key", new_key().private_bytes_raw())
    device.store.put_secret("identity.round", msgspec.json.encode(configuration))
    device.store.put_secret("identity.aggregator", msgspec.json.encode(word))


def sent(device: Device, made: tiny.Tiny, **asked: Any) -> set[str]:
    """The segments of the one update that waits, as the aggregator reads them."""
    (update,) = device.store.outbox.pending()
    configuration = RoundConfiguration(bundle_id=made.bundle_id, **asked)
    return set(read_update(update.data, configuration, made.manifest.layout).values)


def take(device: Device, made: tiny.Tiny, number: int, theta: np.ndarray) -> np.ndarray:
    """Let the device fetch a version; return what it says it has, which a difference is to be added to."""
    certificate = certify(made.root_key, "aggregator", made.aggregator_key, "District 7")
    data = make_version(made.aggregator_key, certificate, made.bundle_id, number, theta, {})
    had: list[np.ndarray] = []
    server: Any = SimpleNamespace(newest=lambda after, old, folder: (had.append(old) or data, len(data)))
    same = {"category": Score(n=9, accuracy=0.5)}
    sync.fetch_global(device.store, device.bundle, server, made.root, lambda thetas: [same] * len(thetas))
    return had[0]


def part(made: tiny.Tiny, theta: np.ndarray, name: str) -> np.ndarray:
    return theta[made.manifest.layout.slices[name]]


def test_a_personal_segment_stays_and_outlives_every_global_theta(
    device: Device, tiny_bundle: tiny.Tiny, tmp_path: Path
) -> None:
    join(device, tiny_bundle, "District 7")
    device.train(settings=FAST)
    everything = sent(device, tiny_bundle)
    assert "head.category" in everything
    device.policy(write_policy(tmp_path, tiny_bundle, scopes={"head.category": "personal"}))
    assert sent(device, tiny_bundle) == everything - {"head.category"}, "made anew as soon as the policy holds"

    trained = versions.theta_of(device.store, device.bundle, device.store.versions.current())
    take(device, tiny_bundle, 1, np.ones_like(trained))
    assembled = versions.theta_of(device.store, device.bundle, device.store.versions.current())
    assert np.array_equal(part(tiny_bundle, assembled, "head.category"), part(tiny_bundle, trained, "head.category"))
    assert (part(tiny_bundle, assembled, "fusion") == 1).all()
    for number in range(2, 12):
        had = take(device, tiny_bundle, number, np.ones_like(trained))
        assert (had == 1).all(), "as it was released, without this device's own segments"
    again = versions.theta_of(device.store, device.bundle, device.store.versions.current())
    assert np.array_equal(again, assembled), "the training it comes from is not among the versions that go"

    start = versions.start_of_training(device.store, device.bundle)
    assert set(start.subjects) == set(device.store.subjects()), "who taught the segment is in what grows from it"
    device.forget("pupil-0")
    left = versions.theta_of(device.store, device.bundle, device.store.versions.current())
    assert (part(tiny_bundle, left, "head.category") == 1).all(), "with the pupil goes what the pupil taught"


def test_segments_of_the_institution_go_to_its_own_aggregator_only(
    device: Device, tiny_bundle: tiny.Tiny, tmp_path: Path
) -> None:
    device.policy(write_policy(tmp_path, tiny_bundle, scopes={"head.*": "institution"}))
    join(device, tiny_bundle, "District 7", scope="institution")
    device.train(settings=FAST)
    foreign = sent(device, tiny_bundle, scope="institution")
    assert not any(name.startswith("head.") for name in foreign), "whatever it asks for"
    join(device, tiny_bundle, "School 12")
    device.train(settings=FAST)
    assert sent(device, tiny_bundle) == foreign, "its own, but merging for others too"
    join(device, tiny_bundle, "School 12", scope="institution")
    device.train(settings=FAST)
    assert sent(device, tiny_bundle, scope="institution") > foreign


def test_the_policy_of_another_or_an_older_one_is_refused(
    device: Device, tiny_bundle: tiny.Tiny, tmp_path: Path
) -> None:
    device.policy(write_policy(tmp_path, tiny_bundle, version=2))
    for path, says in (
        (write_policy(tmp_path, tiny_bundle, version=1), "older"),
        (write_policy(tmp_path, tiny_bundle, "School 13", version=9), "but this device keeps"),
    ):
        with pytest.raises(TrustError, match=says):
            device.policy(path)
    with pytest.raises(InputError, match="no segment"):
        device.policy(write_policy(tmp_path, tiny_bundle, version=3, scopes={"head.categories": "personal"}))
    held = device.policy()
    assert held is not None
    assert held.version == 2


def test_consent_retention_and_the_least_number_of_devices_are_kept(
    device: Device, tiny_bundle: tiny.Tiny, tmp_path: Path
) -> None:
    join(device, tiny_bundle, "District 7")
    rules = {"consent": True, "retain_days": 30, "min_devices": 5}
    device.policy(write_policy(tmp_path, tiny_bundle, **rules))
    with pytest.raises(InputError, match="consent"):
        device.add(Sample(word="cat", labels={"category": "cat"}), Sample(word="dog", consent="given"))
    assert device.status()["samples"] == 18, "all or none"
    for i in range(4):
        long, own = "2999-01-01", None
        device.add(
            Sample(
                word=f"cat dog {i}",
                labels={"category": "cat"},
                consent={"state": "given", "basis": f"form {i}"},
                retain_until=long if i else own,
            )
        )
    last = {sample.retain_until for sample in device.store.samples("classroom")}
    assert len(last) == 1
    assert max(last, key=str) < "2999"
    report = device.train(settings=FAST)
    assert report.samples == 4, "what came before the policy and lacks its consent does not teach"
    assert device.status()["without_consent"] == device.store.count() - 4
    assert "at least 5 devices" in report.update
    assert device.store.outbox.pending() == []


def test_the_kind_of_round_and_its_promise_are_held_to_the_policy(
    device: Device, tiny_bundle: tiny.Tiny, tmp_path: Path
) -> None:
    device.policy(write_policy(tmp_path, tiny_bundle, rounds=("private",), epsilon=4.0, delta=1e-5))
    weak = Privacy(clip_norm=1.0, noise_multiplier=1.0, epsilon=9.0, delta=1e-5)
    for promise, says in ((None, "are plain"), (weak, "epsilon up to 4")):
        join(device, tiny_bundle, "District 7", privacy=promise)
        assert says in device.train(settings=FAST).update
        assert device.store.outbox.pending() == []
    join(device, tiny_bundle, "District 7", privacy=msgspec.structs.replace(weak, epsilon=4.0))
    assert device.train(settings=FAST).update == "queued"


def test_in_a_private_round_what_may_not_leave_goes_as_zeros(
    device: Device, tiny_bundle: tiny.Tiny, tmp_path: Path
) -> None:
    promise = Privacy(clip_norm=1.0, noise_multiplier=1.0, epsilon=4.0, delta=1e-5)
    device.policy(write_policy(tmp_path, tiny_bundle, scopes={"head.*": "personal"}))
    join(device, tiny_bundle, "District 7", privacy=promise)
    assert device.train(settings=FAST).update == "queued"
    (update,) = device.store.outbox.pending()
    asked = RoundConfiguration(bundle_id=tiny_bundle.bundle_id, privacy=promise)
    values = read_update(update.data, asked, tiny_bundle.manifest.layout).values
    assert {name for name, sent in values.items() if sent.any()} & {"fusion", "ladder.text"}
    assert not any(sent.any() for name, sent in values.items() if name.startswith("head."))


def test_an_update_whose_sending_was_begun_is_not_sent_again_under_a_new_policy(
    device: Device, tiny_bundle: tiny.Tiny, tmp_path: Path
) -> None:
    join(device, tiny_bundle, "District 7")
    device.train(settings=FAST)
    (update,) = device.store.outbox.pending()
    device.store.outbox.mark_sending(update.update_id)
    device.policy(write_policy(tmp_path, tiny_bundle, scopes={"fusion": "personal"}))
    assert device.store.outbox.pending() == []
    assert device.store.outbox.sent() == [update.update_id]
    assert device.train(settings=FAST).update != "queued", "nor another for the same base, since it may have arrived"


def test_a_policy_is_drafted_signed_and_taken_on_the_command_line(
    tiny_bundle: tiny.Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_key(tmp_path / "root.pem", tiny_bundle.root_key)
    key, signed, place = (str(tmp_path / name) for name in ("school.pem", "policy.json", "classroom"))
    (tmp_path / "draft.toml").write_text('version = 1\nretain_days = 365\n[scopes]\n"head.*" = "institution"\n')
    main(["trust", "certify", "institution", key, "--root-key", str(tmp_path / "root.pem"), "--name", "School 12"])
    main(["trust", "policy", str(tmp_path / "draft.toml"), "--key", key, "--out", signed])
    main(["device", "init", place, "--bundle", str(tiny_bundle.path), "--root", tiny_bundle.root])
    main(["device", "policy", place])
    assert "no policy" in capsys.readouterr().out
    main(["device", "policy", place, signed])
    said = capsys.readouterr().out
    assert "School 12, version 1" in said
    assert "fusion: shared" in said
    assert "head.grade: personal" in said, "there is no aggregator of its own yet"
    assert "at most 365 days" in said
