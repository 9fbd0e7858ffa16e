"""Messages of a secure round that no honest server sends: each step refuses them before it gives anything away."""

from __future__ import annotations

import msgspec
import pytest
from secagg_clients import Round, gather

from homeroom.contract.secagg import Consents, Inbox, SecureCohort, Survivors
from homeroom.errors import TrustError
from homeroom.privacy.secagg import client as steps
from homeroom.privacy.secagg.encoding import ThetaShape, feeders


def inboxes(found: Round) -> list[tuple[Inbox, str]]:
    good = found.inbox(0)
    return [
        (Inbox(good.sharers[::-1], good.sealed), "no set of the cohort's"),
        (Inbox((*good.sharers, 8), good.sealed), "no set of the cohort's"),
        (Inbox((0, *good.sharers), good.sealed), "no set of the cohort's"),
        (Inbox(good.sharers[1:], good.sealed), "own shares are said to be missing"),
        (Inbox(good.sharers[:4], good.sealed[:3]), "too few of this device's neighbours"),
        (Inbox(good.sharers, good.sealed[:-1]), "shares are missing"),
    ]


@pytest.mark.attack("members", "a cohort, shares or survivors that are no set of the round's devices")
def test_an_inbox_names_devices_of_the_cohort_once_in_order_and_its_receiver(shared: Round) -> None:
    device = shared.devices[0]
    for inbox, why in inboxes(shared):
        with pytest.raises(TrustError, match=why):
            steps.mask(device.state, inbox, shared.shape, shared.encoder(0))


@pytest.mark.attack("members", "a cohort, shares or survivors that are no set of the round's devices")
@pytest.mark.parametrize("places", [(1, 0, 2, 3, 4), (0, 0, 1, 2, 3, 4), (0, 1, 2, 3, 4, 8)])
def test_survivors_are_devices_of_the_cohort_once_in_order(masked: Round, places: tuple[int, ...]) -> None:
    device = masked.devices[0]
    with pytest.raises(TrustError, match="no set of the cohort's"):
        steps.consent(device.state, Survivors(places), masked.shape, device.key)


@pytest.mark.attack("members", "a message of an earlier round, phase or device, sent again")
def test_no_step_comes_before_its_turn(masked: Round) -> None:
    fresh = gather(8)
    device = fresh.devices[0]
    with pytest.raises(TrustError, match="before its turn"):
        steps.mask(device.state, masked.inbox(0), fresh.shape, fresh.encoder(0))
    with pytest.raises(TrustError, match="before its turn"):
        steps.consent(device.state, masked.survivors, fresh.shape, device.key)
    with pytest.raises(TrustError, match="other survivors than the ones"):
        steps.reveal(masked.devices[0].state, Consents(masked.survivors, ()), masked.shape)


def test_a_sum_needs_secure_rules_a_segment_and_a_cohort_that_holds_the_device() -> None:
    """Five devices feed two segments, and neither of these is fed by enough of them."""
    found = gather(5, examples=lambda slot: {"ladder.table": 3 * (slot < 3), "head.grade": 2 * (slot >= 3)})
    found.share()
    with pytest.raises(TrustError, match="no segment is fed by enough"):
        found.mask()
    with pytest.raises(TrustError, match="does not hold this device"):
        found.view.slot(b"x" * 32)
    plain = msgspec.structs.replace(found.configuration, secure=None)
    notice = msgspec.structs.replace(found.notice, configuration_id=plain.configuration_id)
    with pytest.raises(TrustError, match="asks for no secure rounds"):
        steps.advertise(
            notice,
            found.roster,
            ThetaShape(found.layout, plain),
            found.devices[0].key,
            update_id="0" * 32,
            segments=b"\x03",
        )
    with pytest.raises(TrustError):
        steps.CohortView(found.notice.round_id, SecureCohort(found.cohort.members[:1]), found.shape)


@pytest.mark.parametrize("segments", [b"\x07", b"\x03\x00", b""])
def test_a_device_claims_segments_that_the_bundle_has(segments: bytes) -> None:
    found = gather(5)
    members = list(found.cohort.members)
    members[2] = msgspec.structs.replace(members[2], segments=segments)
    with pytest.raises(TrustError, match="claims segments that this bundle does not have"):
        feeders(found.shape, SecureCohort(tuple(members)))
