"""A scripted adversary for each claim of `docs/secure.md`: a lying server, forged keys, replays. All learn nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import numpy as np
import pytest
from secagg_clients import ROOT, Round, gather

from homeroom.contract.roster import Roster, make_roster, read_roster
from homeroom.contract.secagg import Consents, Inbox, Reveal, SecureCohort, Survivors, SurvivorsConsent
from homeroom.contract.signing import certify, fingerprint, new_key, public_hex, sign
from homeroom.errors import TrustError, UpdateError
from homeroom.privacy.secagg import client as steps
from homeroom.privacy.secagg.encoding import ThetaShape
from homeroom.privacy.secagg.masks import add_masks, unpack
from homeroom.privacy.secagg.primitives import combine
from homeroom_aggregator.secagg.unmask import Unmasking, decode_sum, unmask_sum

HOUSE = Path(__file__).resolve().parents[3]


def resigned(found: Round, place: int, **changes: bytes) -> SecureCohort:
    """The cohort with one device's advertisement altered, its old signature kept."""
    members = list(found.cohort.members)
    members[place] = msgspec.structs.replace(members[place], **changes)
    return SecureCohort(tuple(members))


def refused(found: Round, cohort: SecureCohort, why: str, roster: Roster | None = None) -> None:
    """No device shares anything with this cohort."""
    for device in found.devices[:3]:
        with pytest.raises(TrustError, match=why):
            steps.share(device.state, cohort, roster or found.roster, found.shape)


# The cohort


@pytest.mark.attack("members", "a server's own keys, made-up devices or repeated ones in a cohort")
def test_a_server_that_puts_its_own_key_in_a_devices_place_is_caught() -> None:
    found = gather(5)
    spy = new_key().public_key().public_bytes_raw()
    for name in ("mask", "channel"):
        refused(found, resigned(found, 4, **{name: spy}), "signature does not hold")


@pytest.mark.attack("members", "a server's own keys, made-up devices or repeated ones in a cohort")
def test_a_device_that_the_institution_never_named_is_caught() -> None:
    found = gather(5)
    spy = new_key()
    bare = msgspec.structs.replace(found.cohort.members[0], device=spy.public_key().public_bytes_raw())
    keys = {"channel": b"c" * 32, "mask": b"m" * 32}
    mine = msgspec.structs.replace(bare, **keys)
    signature = bytes.fromhex(sign(spy, steps.KEYS_PURPOSE, mine.statement(found.notice.round_id)))
    mine = msgspec.structs.replace(mine, signature=signature)
    members = sorted((*found.cohort.members, mine), key=lambda m: m.device)
    refused(found, SecureCohort(tuple(members)), "not on the institution's roster")


@pytest.mark.attack("members", "a server's own keys, made-up devices or repeated ones in a cohort")
def test_a_cohort_of_one_device_many_times_is_caught() -> None:
    found = gather(5)
    first = found.cohort.members[0]
    refused(found, SecureCohort((first, *found.cohort.members)), "twice")
    refused(found, resigned(found, 1, mask=first.mask), "same key")


@pytest.mark.attack("members", "a message of an earlier round, phase or device, sent again")
def test_keys_of_an_earlier_round_are_caught() -> None:
    keys = [new_key() for _ in range(5)]
    before, now = gather(5, keys=keys), gather(5, keys=keys)
    members = list(now.cohort.members)
    members[2] = before.cohort.members[2]
    for place in (0, 1):
        with pytest.raises(TrustError, match="signature does not hold"):
            steps.share(now.devices[place].state, SecureCohort(tuple(members)), now.roster, now.shape)


@pytest.mark.attack("members", "a server that shows a device other keys of its own than it sent")
def test_keys_that_this_device_signed_before_are_not_shown_in_place_of_those_it_sent() -> None:
    found = gather(5)
    device = found.devices[0]
    bits, update_id = device.state.advertisement.segments, device.update.header.update_id
    again = steps.advertise(found.notice, found.roster, found.shape, device.key, update_id=update_id, segments=bits)
    cohort = SecureCohort((again.advertisement, *found.cohort.members[1:]))
    with pytest.raises(TrustError, match="not shown as it sent them"):
        steps.share(device.state, cohort, found.roster, found.shape)
    steps.share(found.devices[1].state, cohort, found.roster, found.shape)  # all else is in order


@pytest.mark.attack("members", "a cohort by another roster than the round was announced with")
def test_a_cohort_by_another_signed_roster_than_the_rounds_is_refused() -> None:
    found, signer = gather(5), new_key()
    word = certify(ROOT, "roster", signer, "tests")
    names = [*found.roster.devices, new_key().public_key().public_bytes_raw().hex()]
    newer = make_roster(signer, word, names, serial=2, minimum=3, institution="tests")
    refused(found, found.cohort, "another roster than the one", newer)
    device = found.devices[0]
    for notice, roster, why in (
        (found.notice, newer, "another roster than the one shown"),
        (msgspec.structs.replace(found.notice, configuration_id="1" * 64), found.roster, "another round configuration"),
    ):
        with pytest.raises(TrustError, match=why):
            steps.advertise(notice, roster, found.shape, device.key, update_id="0" * 32, segments=b"\x03")


@pytest.mark.attack("members", "survivors that leave one segment with fewer devices than the minimum")
def test_survivors_that_leave_a_segment_below_the_minimum_are_refused() -> None:
    """Eight devices, five of them feed a head; the server drops three of these and keeps a quorum of five."""
    found = gather(8, examples=lambda slot: {"ladder.table": 3, "head.grade": 2 * (slot < 5)})
    assert found.view.sum_layout(3).segments == ("ladder.table", "head.grade")
    found.share()
    found.mask()
    left = Survivors((3, 4, 5, 6, 7))
    assert len(left.places) == found.view.parameters.quorum
    for slot in left.places:
        device = found.devices[slot]
        with pytest.raises(TrustError, match=r"segment head.grade is left with fewer than 3"):
            steps.consent(device.state, left, found.shape, device.key)
    found.consent(survivors=Survivors((2, 3, 4, 5, 6, 7)), absent=(0, 1))


@pytest.mark.attack("members", "a cohort or a sum of fewer devices than the minimum")
def test_a_cohort_under_the_minimum_is_refused() -> None:
    found = gather(6, minimum=5)
    refused(found, SecureCohort(found.cohort.members[:4]), "below the minimum")
    refused(found, SecureCohort(found.cohort.members[:5]), "too few for a sum")


@pytest.mark.attack("members", "two cohorts or two sets of survivors told to the devices of one round")
def test_a_second_cohort_for_the_same_round_is_refused(shared: Round) -> None:
    with pytest.raises(TrustError, match="another cohort"):
        steps.share(shared.devices[0].state, SecureCohort(shared.cohort.members[:7]), shared.roster, shared.shape)


@pytest.mark.attack("members", "a roster that the institution did not sign, or an older one")
def test_the_server_cannot_write_the_roster() -> None:
    found, server = gather(4), new_key()
    word = certify(ROOT, "aggregator", server, "the server")
    made_up = make_roster(server, word, found.roster.devices, serial=9, minimum=3, institution="tests")
    root = fingerprint(public_hex(ROOT))
    with pytest.raises(TrustError, match="not as roster"):
        read_roster(msgspec.json.encode(made_up), root_fingerprint=root)
    longer = msgspec.structs.replace(found.roster, devices=tuple(sorted((*found.roster.devices, "0" * 64))))
    lower = msgspec.structs.replace(found.roster, minimum=3, serial=2)
    for altered in (longer, lower):
        with pytest.raises(TrustError, match="signature does not hold"):
            read_roster(msgspec.json.encode(altered), root_fingerprint=root)
    with pytest.raises(TrustError, match="seen before"):
        read_roster(msgspec.json.encode(found.roster), root_fingerprint=root, after=2)
    assert read_roster(msgspec.json.encode(found.roster), root_fingerprint=root, after=1) == found.roster
    stranger = new_key()
    word = certify(stranger, "roster", stranger, "somebody")
    other = make_roster(stranger, word, found.roster.devices, serial=1, minimum=3, institution="tests")
    with pytest.raises(TrustError, match="this device trusts"):
        read_roster(msgspec.json.encode(other), root_fingerprint=root)


def test_a_device_off_the_roster_or_shown_another_one_does_not_advertise() -> None:
    found, other = gather(4), gather(4)
    arguments = {"update_id": "a" * 32, "segments": b"\x03"}
    with pytest.raises(TrustError, match="another roster"):
        steps.advertise(found.notice, other.roster, found.shape, found.devices[0].key, **arguments)
    with pytest.raises(TrustError, match="not on the institution's roster"):
        steps.advertise(found.notice, found.roster, found.shape, new_key(), **arguments)
    changed = ThetaShape(found.layout, msgspec.structs.replace(found.configuration, max_norm=1e9))
    with pytest.raises(TrustError, match="another round configuration"):
        steps.advertise(found.notice, found.roster, changed, found.devices[0].key, **arguments)


# Shares


@pytest.mark.attack("members", "a message of an earlier round, phase or device, sent again")
def test_a_share_of_another_round_or_sender_is_caught(shared: Round) -> None:
    again = gather(8, keys=[device.key for device in shared.devices])
    again.share()
    mine = again.inbox(0)
    replayed = Inbox(mine.sharers, (shared.inbox(0).sealed[0], *mine.sealed[1:]))
    swapped = Inbox(mine.sharers, (mine.sealed[1], mine.sealed[0], *mine.sealed[2:]))
    others = Inbox(mine.sharers, (again.inbox(1).sealed[0], *mine.sealed[1:]))
    for inbox in (replayed, swapped, others):
        with pytest.raises(TrustError, match="does not open"):
            steps.mask(again.devices[0].state, inbox, again.shape, again.encoder(0))


@pytest.mark.attack("members", "a device isolated from its neighbours, so that its update is the sum")
def test_a_server_that_isolates_a_device_from_its_neighbours_gets_no_vector(shared: Round) -> None:
    whole = shared.inbox(0)
    few = Inbox(whole.sharers[:5], whole.sealed[:4])
    with pytest.raises(TrustError, match="too few"):
        steps.mask(shared.devices[0].state, few, shared.shape, shared.encoder(0))
    lie = Inbox(whole.sharers, whole.sealed[:4])
    with pytest.raises(TrustError, match="missing"):
        steps.mask(shared.devices[0].state, lie, shared.shape, shared.encoder(0))


# Survivors


@pytest.mark.attack("members", "two cohorts or two sets of survivors told to the devices of one round")
def test_survivors_that_leave_a_device_out_or_name_a_stranger_are_not_signed(masked: Round) -> None:
    everyone = masked.survivors.places
    for places, why in (
        (everyone[1:], "left out"),
        ((*everyone, 8), "no set of the cohort"),
        (everyone[::-1], "no set of the cohort"),
        ((0, *everyone), "no set of the cohort"),
        (everyone[:2], "are needed|that a sum needs"),
        (everyone[:4], "too many devices are left out"),
    ):
        with pytest.raises(TrustError, match=why):
            masked.devices[0].state = steps.consent(
                masked.devices[0].state,
                Survivors(tuple(places)),
                masked.shape,
                masked.devices[0].key,
            )
    assert masked.devices[0].state.consent is None


def test_a_survivor_that_never_shared_is_not_signed(shared: Round) -> None:
    found = gather(8)
    found.share(absent={7})
    found.mask()
    with pytest.raises(TrustError, match="never shared"):
        steps.consent(found.devices[0].state, Survivors(tuple(range(8))), found.shape, found.devices[0].key)


@pytest.mark.attack("members", "two cohorts or two sets of survivors told to the devices of one round")
def test_a_device_signs_one_set_of_survivors_only(masked: Round) -> None:
    device, everyone = masked.devices[0], masked.survivors.places
    device.state = steps.consent(device.state, Survivors(everyone), masked.shape, device.key)
    with pytest.raises(TrustError, match="another set of survivors"):
        steps.consent(device.state, Survivors(everyone[:7]), masked.shape, device.key)
    again = steps.consent(device.state, Survivors(everyone), masked.shape, device.key)
    assert again == device.state


@pytest.mark.attack("members", "two cohorts or two sets of survivors told to the devices of one round")
def test_a_server_that_tells_two_halves_different_survivors_opens_nothing(masked: Round) -> None:
    """It wants both kinds of share of device 7: half is told that 7 is gone, half that it is there."""
    everyone = masked.survivors.places
    one, other = Survivors(everyone), Survivors(everyone[:7])
    told = {place: one if place < 4 else other for place in range(7)}
    consents: dict[Survivors, list[SurvivorsConsent]] = {one: [], other: []}
    for place, survivors in told.items():
        device = masked.devices[place]
        device.state = steps.consent(device.state, survivors, masked.shape, device.key)
        assert device.state.consent
        consents[survivors].append(SurvivorsConsent(place, device.state.consent))
    everything = [*consents[one], *consents[other]]
    for place, survivors in told.items():
        member = masked.devices[place].state
        for chosen in (consents[survivors], everything):
            with pytest.raises(TrustError, match=r"are needed|signature does not hold"):
                steps.reveal(member, Consents(survivors, tuple(chosen)), masked.shape)
        lie = other if survivors == one else one
        with pytest.raises(TrustError, match="other survivors"):
            steps.reveal(member, Consents(lie, tuple(consents[lie])), masked.shape)


def test_one_signature_counts_once_and_a_strangers_not_at_all(masked: Round) -> None:
    masked.consent()
    one = masked.consents[0]
    for consents, why in (
        ([one] * 8, "are needed"),
        ([*masked.consents[:-1], SurvivorsConsent(7, one.signature)], "signature does not hold"),
        ([*masked.consents, SurvivorsConsent(9, one.signature)], "no survivor"),
    ):
        with pytest.raises(TrustError, match=why):
            steps.reveal(masked.devices[0].state, Consents(masked.survivors, tuple(consents)), masked.shape)


@pytest.mark.attack("members", "both shares of one device, to open its input alone")
def test_no_device_ever_gives_both_shares_of_a_neighbour(masked: Round) -> None:
    masked.inputs.pop(3)  # 3 is said to have dropped out
    masked.consent()
    for place, reveal in masked.reveal().items():
        held = dict(sorted(masked.devices[place].state.held.items()))
        for (owner, both), share in zip(held.items(), reveal.shares, strict=True):
            assert share == (both[16:] if owner == 3 else both[:16])


# What the server holds


@pytest.mark.attack("members", "one device's update from every message of a round")
def test_with_every_message_of_a_round_the_server_cannot_open_one_vector(masked: Round) -> None:
    """After an honest round it has a vector, the survivors' self-masks, and no pairwise key: what is left is noise."""
    masked.consent()
    opening = Unmasking(masked.view, masked.notice.round_id, masked.sharers, masked.inputs)
    for place, reveal in masked.reveal().items():
        opening.add(place, reveal)
    terms = masked.view.sum_layout(3)
    victim = unpack(masked.inputs[2], terms.count, terms.width)
    add_masks(victim, [], [steps.self_mask_key(opening.secrets[2], masked.view)])
    plain = masked.plain_sum([2])
    assert not np.array_equal(victim.view(np.int64), plain)
    modulus = 2.0 ** (8 * terms.width)
    spread = (victim.astype(np.float64) % modulus) / modulus
    assert 0.35 < spread.mean() < 0.65, "uniform over the ring: seven standard errors of 200 values"
    assert 0.22 < spread.std() < 0.36


def test_a_threshold_of_shares_is_really_needed(masked: Round) -> None:
    """Four corrupted devices pool all they hold about an honest one's seed; five would be needed."""
    assert masked.view.parameters.threshold == 5
    held = [(place, masked.devices[place].state.held[7]) for place in range(4)]
    numbers = {place: masked.view.graph.neighbours(7).index(place) + 1 for place, _ in held}
    pooled = combine([(numbers[place], both[:16]) for place, both in held])
    assert hashlib.sha256(pooled).digest() != masked.cohort.members[7].seed_digest


@pytest.mark.attack("members", "both shares of one device, to open its input alone")
def test_a_drop_out_that_was_only_slow_stays_hidden(masked: Round) -> None:
    """Its vector arrived, but the survivors were fixed without it: its key is opened, its own mask is not."""
    late = masked.inputs.pop(7)
    masked.consent()
    opening = Unmasking(masked.view, masked.notice.round_id, masked.sharers, masked.inputs)
    for place, reveal in masked.reveal().items():
        opening.add(place, reveal)
    terms = masked.view.sum_layout(3)
    np.testing.assert_array_equal(unmask_sum(masked.inputs.values(), terms, opening), masked.plain_sum(range(7)))
    vector = unpack(late, terms.count, terms.width)
    secret = steps.mask_private_key(opening.secrets[7], masked.notice.round_id)
    pairs = [steps.pair_mask_key(secret, masked.view, other) for other in range(7)]
    add_masks(vector, pairs, [])  # 7 has the highest place: it took every pair's stream away
    left = (vector.astype(np.float64) % 2.0 ** (8 * terms.width)) / 2.0 ** (8 * terms.width)
    assert 0.22 < left.std() < 0.36, "the self-mask is still on it"


# Cheating devices


@pytest.mark.attack("members", "a masked update that is nonsense, or shares that do not open")
def test_wrong_shares_of_a_few_devices_do_not_change_the_sum_and_of_many_there_is_none(masked: Round) -> None:
    masked.consent()
    revealed = masked.reveal()
    for liars in ({0, 1}, {0, 1, 2}):
        opening = Unmasking(masked.view, masked.notice.round_id, masked.sharers, masked.inputs)
        for place, reveal in revealed.items():
            wrong = Reveal(tuple(bytes(16) for _ in reveal.shares))
            opening.add(place, wrong if place in liars else reveal)
        assert bool(opening.missing) == (len(liars) > 2), "two may lie or be away, as two drop-outs were promised"
        for place in opening.secrets:
            assert opening._right(place, opening.secrets[place])
        if not opening.missing:
            terms = masked.view.sum_layout(3)
            np.testing.assert_array_equal(
                unmask_sum(masked.inputs.values(), terms, opening), masked.plain_sum(range(8))
            )


@pytest.mark.attack("members", "a sum that no honest cohort could have")
def test_a_sum_that_no_honest_devices_could_have_is_refused(masked: Round) -> None:
    terms = masked.view.sum_layout(3)
    fed = dict.fromkeys(terms.segments, 8)
    honest = masked.plain_sum(range(8))
    decode_sum(honest, terms, fed, masked.configuration)
    for place, value in ((0, 1 << 40), (-1, 0), (-1, 1 << 30), (-2, -5)):
        cheated = honest.copy()
        cheated[place] = value
        with pytest.raises(UpdateError, match=r"impossible|beyond an honest"):
            decode_sum(cheated, terms, fed, masked.configuration)


def test_no_seed_comes_from_anything_but_the_systems_secure_source() -> None:
    for path in (HOUSE / "sdk/homeroom/privacy/secagg").glob("*.py"):
        text = path.read_text()
        assert "np.random" not in text
        assert "import random" not in text
