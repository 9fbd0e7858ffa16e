"""What devices advertise to be in a cohort: checked as it comes, and chosen from."""

from __future__ import annotations

from collections import Counter

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from homeroom.contract import secagg
from homeroom.contract.signing import verify
from homeroom.errors import TrustError, UpdateError
from homeroom.privacy.secagg.client import KEYS_PURPOSE
from homeroom.privacy.secagg.encoding import feeders
from homeroom.privacy.secagg.primitives import agree
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.secagg.round_store import ActiveRound, RoundStore
from homeroom_aggregator.secagg.sums import Sums
from homeroom_aggregator.state.members import Members


def advertised(store: RoundStore) -> dict[str, secagg.Advertisement]:
    """What each device that came has advertised, by its key."""
    bodies = store.bodies("keys").items()
    return {
        device: secagg.unpack(body, secagg.Advertisement, where="keys", error=UpdateError) for device, body in bodies
    }


def check_keys(
    live: ActiveRound,
    device: str,
    body: bytes,
    others_by_key: dict[str, secagg.Advertisement],
    members: Members,
    sums: Sums,
) -> None:
    """Check and claim what a device advertises; UpdateError where it may not be in the cohort."""
    advertisement = secagg.unpack(body, secagg.Advertisement, where="keys", error=UpdateError)
    if advertisement.device.hex() != device or device not in live.roster.devices:
        raise UpdateError("this device is not on the institution's roster", code="not_member")
    check_signature(device, KEYS_PURPOSE, advertisement.statement(live.notice.round_id), advertisement.signature)
    member = members.name_of(device)
    sums.check(advertisement, member)
    others = [other for sender, other in others_by_key.items() if sender != device]
    if any(members.name_of(other.device.hex()) == member for other in others):
        raise UpdateError("another key of this device is in the cohort", code="past_phase", remedy="sync again later")
    keys = {advertisement.mask, advertisement.channel}
    if keys & {key for other in others for key in (other.mask, other.channel)}:
        raise UpdateError("its keys are another device's", code="malformed")
    try:  # what every other device would refuse must not spoil their round
        feeders(sums.shape, secagg.SecureCohort((advertisement,)))
        for key in (advertisement.mask, advertisement.channel):
            agree(X25519PrivateKey.generate(), key, b"", 16)
    except TrustError as problem:
        raise UpdateError(problem.what, code="malformed") from None
    if not sums.claim(advertisement, member):
        raise UpdateError("this device has offered too many updates", code="past_phase", remedy="sync again later")


def within_schools(came: dict[str, secagg.Advertisement], rounds: Rounds) -> dict[str, secagg.Advertisement]:
    """Of each school no more devices than the round allows, whatever the roster has; the others' updates wait."""
    limit, taken, members = rounds.configuration.school_devices, Counter[str](), rounds.members
    kept = dict[str, secagg.Advertisement]()
    for device, advertisement in came.items():
        school = members.school(members.name_of(device))
        taken[school] += 1
        if not (limit and school) or taken[school] <= limit:
            kept[device] = advertisement
    return kept


def check_signature(device: str, purpose: str, statement: bytes, signature: bytes) -> None:
    """UpdateError unless a device signed the statement for this purpose."""
    try:
        verify(device, purpose, statement, signature.hex(), where=purpose)
    except TrustError as problem:
        raise UpdateError(problem.what, code="bad_signature") from None
