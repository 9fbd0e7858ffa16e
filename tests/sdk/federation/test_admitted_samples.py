"""Which samples a policy lets in and teaches from: with the consent that it asks for, no longer than it allows."""

from __future__ import annotations

import datetime

import msgspec
from faults.devices import make_sample

from homeroom.contract.policy import Policy
from homeroom.data.consent import Consent
from homeroom.data.samples import StoredSample
from homeroom.errors import InputError
from homeroom.federation.policy import admit_samples, may_teach

TODAY = datetime.date(2026, 12, 1)
EASY = Policy(institution="School 12", version=1)
STRICT = msgspec.structs.replace(EASY, consent=True, retain_days=30)
UNASKED = msgspec.structs.replace(make_sample(1), labels={"category": "animals"})
ASKED = msgspec.structs.replace(UNASKED, consent=Consent("given", basis="letter of 2026-09-01"))


def admitted(policy: Policy | None, samples: list[StoredSample]) -> tuple[list[StoredSample], list[InputError]]:
    """The samples that a policy lets in, and why it does not let in the others."""
    refused: list[InputError] = []
    return list(admit_samples(policy, samples, TODAY, refused.append)), refused


def test_a_sample_needs_the_consent_that_the_policy_asks_for_and_no_more() -> None:
    for policy in (None, EASY):
        assert admitted(policy, [UNASKED, ASKED]) == ([UNASKED, ASKED], [])
        assert may_teach(policy, UNASKED)
    taken, (refused,) = admitted(STRICT, [ASKED, UNASKED])
    assert [sample.consent for sample in taken] == [ASKED.consent]
    assert "asks for consent with each sample, and here it is unstated" in refused.what
    assert not may_teach(STRICT, UNASKED)
    assert may_teach(STRICT, ASKED)


def test_a_sample_is_kept_no_longer_than_the_policy_allows() -> None:
    ((kept,), _) = admitted(STRICT, [ASKED])
    assert kept.retain_until == "2026-12-31"
    sooner = msgspec.structs.replace(ASKED, retain_until="2026-12-15")
    assert admitted(STRICT, [sooner]) == ([sooner], [])


def test_what_is_quarantined_or_has_no_label_teaches_nothing() -> None:
    bare = msgspec.structs.replace(ASKED, labels={})
    assert not may_teach(None, bare)
    assert may_teach(None, bare, unlabelled=True)
    assert not may_teach(None, msgspec.structs.replace(ASKED, aside="empty"), unlabelled=True)
