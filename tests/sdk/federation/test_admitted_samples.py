"""Which samples a policy lets in and teaches from: with the consent that it asks for, no longer than it allows."""

from __future__ import annotations

import datetime

import msgspec
import pytest
from faults.devices import make_sample

from homeroom.contract.policy import Policy
from homeroom.errors import InputError
from homeroom.federation.policy import admit_samples, may_teach

TODAY = datetime.date(2026, 12, 1)
EASY = Policy(institution="School 12", version=1)
STRICT = msgspec.structs.replace(EASY, consent=True, retain_days=30)
UNASKED = msgspec.structs.replace(make_sample(1), labels={"category": "animals"})
ASKED = msgspec.structs.replace(UNASKED, consent="letter of 2026-09-01")


def test_a_sample_needs_the_consent_that_the_policy_asks_for_and_no_more() -> None:
    for policy in (None, EASY):
        assert list(admit_samples(policy, [UNASKED, ASKED], TODAY)) == [UNASKED, ASKED]
        assert may_teach(policy, UNASKED)
    with pytest.raises(InputError, match="asks for consent with each sample"):
        list(admit_samples(STRICT, [ASKED, UNASKED], TODAY))
    assert not may_teach(STRICT, UNASKED)
    assert may_teach(STRICT, ASKED)


def test_a_sample_is_kept_no_longer_than_the_policy_allows() -> None:
    (kept,) = admit_samples(STRICT, [ASKED], TODAY)
    assert kept.retain_until == "2026-12-31"
    sooner = msgspec.structs.replace(ASKED, retain_until="2026-12-15")
    assert list(admit_samples(STRICT, [sooner], TODAY)) == [sooner]


def test_what_is_quarantined_or_has_no_label_teaches_nothing() -> None:
    bare = msgspec.structs.replace(ASKED, labels={})
    assert not may_teach(None, bare)
    assert may_teach(None, bare, unlabelled=True)
    assert not may_teach(None, msgspec.structs.replace(ASKED, aside="empty"), unlabelled=True)
