"""The policy: it can only take away, and only the institution that the root named can speak for itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeroom.contract.canonical_json import identity
from homeroom.contract.layout import SCOPES, Layout, Parameter, Segment
from homeroom.contract.policy import Policy, draft, narrowed, read_policy, sign_policy, unmatched
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.signing import certify, fingerprint, new_key, public_hex, sign
from homeroom.contract.update import make_update
from homeroom.contract.update_checks import read_update
from homeroom.errors import InputError, TrustError, UpdateError

ROOT, SCHOOL, DEVICE = new_key(), new_key(), new_key()
WORD = certify(ROOT, "institution", SCHOOL, "School 12")
TRUSTED = fingerprint(public_hex(ROOT))
POLICY = Policy(institution="School 12", version=3, scopes={"head.*": "institution"}, min_devices=4)
NAMES = ("ladder.text", "fusion", "head.grade", "head.mood")
GOLDEN = Path(__file__).with_name("formats") / "1" / "round.json"


def layout(*scopes: str) -> Layout:
    found = zip(NAMES, scopes, strict=True)
    return Layout(
        tuple(Segment(name=n, parameters=(Parameter("w", (2,)),), meaning="m", scope=s) for n, s in found)  # type: ignore[arg-type]
    )


SHARED = layout("shared", "shared", "shared", "shared")


def test_a_policy_that_its_institution_signed_is_read_as_it_was_written() -> None:
    data = sign_policy(POLICY, SCHOOL, WORD)
    assert read_policy(data, root_fingerprint=TRUSTED) == POLICY


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["policy"].update(version=4),
        lambda d: d["policy"]["scopes"].update({"head.*": "shared"}),
        lambda d: d["certificate"].update(name="School 13"),
        lambda d: d.update(signature=sign(new_key(), "policy", d["policy"])),
        lambda d: d.update(signature=sign(SCHOOL, "round", d["policy"])),
    ],
)
def test_an_altered_policy_does_not_hold(change: Any) -> None:
    document = json.loads(sign_policy(POLICY, SCHOOL, WORD))
    change(document)
    with pytest.raises(TrustError):
        read_policy(json.dumps(document).encode(), root_fingerprint=TRUSTED)


def test_nobody_else_can_speak_for_an_institution() -> None:
    other = new_key()
    with pytest.raises(TrustError, match="trusts"):
        read_policy(sign_policy(POLICY, SCHOOL, WORD), root_fingerprint=fingerprint(public_hex(other)))
    with pytest.raises(TrustError, match="certified as aggregator"):
        sign_policy(POLICY, SCHOOL, certify(ROOT, "aggregator", SCHOOL, "School 12"))
    with pytest.raises(TrustError, match="speaks for 'School 12'"):
        sign_policy(POLICY, other, certify(ROOT, "institution", other, "School 13"))
    with pytest.raises(TrustError, match="another key"):
        sign_policy(POLICY, other, WORD)


def test_a_rule_that_cannot_be_kept_here_is_not_read_over() -> None:
    fields = {**msgspec.to_builtins(POLICY), "noise": 2.0}
    document = {
        "policy": fields,
        "certificate": msgspec.to_builtins(WORD),
        "signature": sign(SCHOOL, "policy", fields),
    }
    with pytest.raises(InputError, match="noise"):
        read_policy(json.dumps(document).encode(), root_fingerprint=TRUSTED)


scopes = st.sampled_from(SCOPES)
patterns = st.dictionaries(st.sampled_from([*NAMES, "head.*", "*", "ladder.*", "absent"]), scopes, max_size=4)


@given(st.tuples(scopes, scopes, scopes, scopes), patterns)
def test_no_policy_ever_lets_out_what_the_bundle_keeps_in(given_scopes: tuple[str, ...], said: dict[str, Any]) -> None:
    before = layout(*given_scopes)
    for old, new in zip(before, narrowed(before, said), strict=True):
        assert SCOPES.index(new.scope) >= SCOPES.index(old.scope)
        assert new.segment_id == old.segment_id


def test_the_narrowest_rule_that_fits_counts() -> None:
    said: dict[str, Any] = {"*": "shared", "head.*": "institution", "head.mood": "personal", "heads": "personal"}
    assert [s.scope for s in narrowed(SHARED, said)] == ["shared", "shared", "institution", "personal"]
    assert unmatched(SHARED, said) == ["heads"]


def test_both_ends_refuse_what_the_round_may_not_have() -> None:
    asked = RoundConfiguration(bundle_id="0" * 64, scopes={"head.grade": "institution", "head.mood": "personal"})
    school = msgspec.structs.replace(asked, scope="institution")
    delta, examples = np.full(8, 0.5, np.float32), dict.fromkeys(NAMES, 3)
    made = {c.scope: make_update(DEVICE, c, SHARED, delta, examples, 0) for c in (asked, school)}
    assert set(read_update(made["shared"], asked, SHARED).values) == {"ladder.text", "fusion"}
    assert set(read_update(made["institution"], school, SHARED).values) == {"ladder.text", "fusion", "head.grade"}
    with pytest.raises(UpdateError) as refused:
        read_update(made["institution"], asked, SHARED)
    assert refused.value.code == "personal_segment"


def test_a_round_from_before_policies_keeps_its_identity() -> None:
    plain = json.loads(GOLDEN.read_bytes())["configuration"]
    assert msgspec.convert(plain, RoundConfiguration).configuration_id == identity(plain)
    asked = RoundConfiguration(bundle_id="0" * 64)
    assert msgspec.structs.replace(asked, scope="institution").configuration_id != asked.configuration_id


def test_a_draft_is_refused_with_its_mistake(tmp_path: Path) -> None:
    path = tmp_path / "draft.toml"
    for text, says in (("version = 0", ">= 1"), ("version = 1\nscopes.fusion = 'open'", "open"), ("=", "not TOML")):
        path.write_text(text)
        with pytest.raises(InputError, match=says):
            draft(path, "School 12")
    with pytest.raises(InputError, match="cannot be read"):
        draft(tmp_path / "absent.toml", "School 12")
