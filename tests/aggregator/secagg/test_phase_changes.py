"""A phase that ends while a device asks for its message, a message of no phase, a device that can take no step."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from aggregator.secagg.district import RULES, District
from homeroom.contract.secagg import Survivors, pack
from homeroom.errors import MissingExtraError, TrustError


@pytest.mark.parametrize(("phase", "then"), [("input", "consent"), ("consent", "reveal")])
def test_a_phase_that_others_end_while_a_device_asks_for_its_message_is_no_fault(
    district: District, monkeypatch: pytest.MonkeyPatch, phase: str, then: str
) -> None:
    district.until(phase)
    names = [member.school.name for member in district.members]
    late = next(n for n in range(4) if names[n] not in district.secure_rounds.store.senders(phase))
    others = [n for n in range(4) if n != late]
    member, asked = district.members[late], list[str]()
    send = member.client.send

    def slow(method: str, path: str, *arguments: Any, **options: Any) -> bytes:
        if path.startswith("/v1/secure/") and not asked:
            asked.append(path)
            district.visit(*others)
            if district.phase == phase:  # its part is missing, for too long
                district.later_s = 2 * RULES.phase_s
                district.visit(others[0])
            assert district.phase == then
        return send(method, path, *arguments, **options)

    monkeypatch.setattr(member.client, "send", slow)
    assert "left the round" not in member.visit()
    assert asked
    for _ in range(3):
        if district.version == 0:
            district.visit(*range(4))
    assert district.version == 1
    in_sum = [n for n in range(4) if district.members[n].store.outbox.sent()]
    assert (late in in_sum) == (phase == "consent")


def test_another_message_in_the_phase_that_was_announced_is_a_fault(
    district: District, monkeypatch: pytest.MonkeyPatch
) -> None:
    district.until("input")
    names = [member.school.name for member in district.members]
    late = next(n for n in range(4) if names[n] not in district.secure_rounds.store.senders("input"))
    client = district.members[late].client
    send = client.send

    def wrong(method: str, path: str, *arguments: Any, **options: Any) -> bytes:
        return (
            pack(Survivors((0, 1, 2))) if path.startswith("/v1/secure/") else send(method, path, *arguments, **options)
        )

    monkeypatch.setattr(client, "send", wrong)
    with pytest.raises(TrustError, match="shares: not a valid message"):
        district.visit(late)
    assert "left the round" in district.visit(late)[0]


def test_a_device_without_the_extra_joins_no_round_that_others_would_wait_for(
    district: District, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "Crypto.Protocol.SecretSharing", None)
        with pytest.raises(MissingExtraError, match=r"pip install .*\[secure\]"):
            district.visit(0)
    assert not district.secure_rounds.store.bodies("keys")
    assert "joined a cohort" in district.visit(0)[0], "nothing is left behind: once it can, it joins"
