"""Messages of a secure round that the server takes from nobody, and sums that no honest devices have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from conftest import Attack

from aggregator.institution import School
from aggregator.secagg.district import District
from homeroom.contract import secagg
from homeroom.contract.privacy import Privacy
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.secagg import Advertisement, Shares
from homeroom.contract.signing import new_key, sign
from homeroom.errors import UpdateError
from homeroom.privacy.secagg.client import KEYS_PURPOSE
from homeroom.privacy.secagg.encoding import SumLayout
from homeroom_aggregator.secagg.unmask import decode_sum


def refusal(call: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(UpdateError) as refused:
        call()
    return refused.value.code, refused.value.what


def raw(school: School) -> bytes:
    return bytes.fromhex(school.name)


@pytest.mark.attack("members", "keys in a cohort that are forged, another's, or spoil it for all")
def test_keys_are_taken_from_their_signer_on_the_roster_with_an_id_and_keys_of_its_own(
    district: District, attack: Attack
) -> None:
    rounds, store = district.secure_rounds, district.secure_rounds.store
    district.visit(0)
    live = store.live()
    assert live
    victim, liar, stranger = district.members[0].school, district.members[1].school, School()
    sent = secagg.unpack(store.body("keys", victim.name) or b"", Advertisement, where="keys", error=UpdateError)

    def put(school: School, signer: School | None = None, **changes: Any) -> Callable[[], object]:
        fields = {"device": raw(school), "update_id": new_key().private_bytes_raw()[:16]}
        fields |= {name: School().key.public_key().public_bytes_raw() for name in ("channel", "mask")}
        bare = msgspec.structs.replace(sent, **(fields | changes))
        signature = sign((signer or school).key, KEYS_PURPOSE, bare.statement(live.notice.round_id))
        body = secagg.pack(msgspec.structs.replace(bare, signature=bytes.fromhex(signature)))
        return lambda: rounds.put(live.notice.round_id, "keys", school.name, body)

    refused = [
        refusal(put(stranger)),
        refusal(put(liar, device=raw(victim))),
        refusal(put(liar, signer=stranger)),
        refusal(put(liar, update_id=sent.update_id)),
        refusal(put(liar, mask=sent.mask)),
        refusal(put(liar, channel=sent.channel)),
        refusal(put(liar, segments=b"\xff")),
        refusal(put(liar, mask=bytes(32))),
    ]
    assert [code for code, _ in refused] == ["not_member"] * 2 + ["bad_signature"] + ["malformed"] * 5
    attack.got = len(store.bodies("keys")) - 1
    attack.noticed = "; ".join(dict.fromkeys(why for _, why in refused))
    status = {name: rounds.status(name) for name in (liar.name, stranger.name)}
    assert [bool(one and one["standing"]["member"]) for one in status.values()] == [True, False]


@pytest.mark.attack("members", "a message out of its turn, twice, or of another length")
def test_each_phase_takes_one_message_of_its_own_length_from_each(district: District, attack: Attack) -> None:
    rounds, store, device = district.secure_rounds, district.secure_rounds.store, district.members[0].school.name
    district.until("shares")
    live = store.live()
    assert live

    def put(phase: str, body: bytes) -> tuple[str, str]:
        return refusal(lambda: rounds.put(live.notice.round_id, phase, device, body))

    refused = [put("input", b""), put("shares", secagg.pack(Shares(())))]
    assert [code for code, _ in refused] == ["past_phase", "malformed"]
    assert device not in store.bodies("shares")
    district.visit(0)
    sent = store.body("shares", device)
    assert sent
    refused += [put("shares", secagg.pack(Shares(())))]
    rounds.put(live.notice.round_id, "shares", device, sent)  # the same again changes nothing
    district.until("input")
    present = store.live()
    assert present
    refused += [put("input", b"")]
    left_out = msgspec.structs.replace(present, sharers=())
    refused += [refusal(lambda: rounds._check_input(left_out, device, b""))]
    assert [code for code, _ in refused[2:]] == ["past_phase", "wrong_shape", "not_member"]
    attack.got = int(store.body("shares", device) not in (sent, None)) + int(store.body("input", device) == b"")
    attack.noticed = "; ".join(why for _, why in refused)


@pytest.mark.attack("members", "a consent to survivors that was not signed, or by one who is none")
def test_consent_is_signed_by_a_survivor(district: District, attack: Attack) -> None:
    rounds, store, device = district.secure_rounds, district.secure_rounds.store, district.members[0].school.name
    district.until("consent")
    live, before = store.live(), store.bodies("consent")
    assert live
    assert device not in before
    code, why = refusal(lambda: rounds.put(live.notice.round_id, "consent", device, bytes(64)))
    assert code == "bad_signature"
    index = rounds._index(live, device)
    left_out = msgspec.structs.replace(live, survivors=tuple(one for one in live.survivors if one != index))
    assert refusal(lambda: rounds._check_consent(left_out, device, bytes(64)))[0] == "not_member"
    attack.got, attack.noticed = len(store.bodies("consent")) - len(before), why


@pytest.mark.parametrize(
    ("values", "weights", "private"),
    [
        ([0, 0, 0], [3], False),
        ([0, 0, 0], [2], False),
        ([1 << 40, 0, 0], [4], False),
        ([0, 0, 0], [4], True),
        ([0, 0, 0], [2], True),
        ([1 << 40, 0, 0], [3], True),
    ],
)
def test_a_sum_that_no_honest_devices_have_is_refused(values: list[int], weights: list[int], private: bool) -> None:
    """Three devices feed the segment: in a private round each weighs 1, else at least 1."""
    terms = SumLayout(("a",), (3,), 8)
    rules = {"bundle_id": "0" * 64, "secure": secagg.SecureRules(cohort=8, minimum=3)}
    promise = Privacy(clip_norm=1, noise_multiplier=2, epsilon=8, delta=1e-5, mechanism="distributed")
    configuration = RoundConfiguration(**rules, **({"privacy": promise} if private else {}))
    total = np.array([*values, *weights], np.int64)
    if (values, weights, private) == ([0, 0, 0], [3], False):
        assert decode_sum(total, terms, {"a": 3}, configuration)[1] == {"a": 3}
        return
    assert refusal(lambda: decode_sum(total, terms, {"a": 3}, configuration))[0] == "too_large"
