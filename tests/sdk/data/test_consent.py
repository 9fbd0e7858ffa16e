"""Consent is a word of a vocabulary: other words are refused with the one that is meant, never taken for consent."""

from __future__ import annotations

import pytest

from homeroom.data.consent import Consent, check_consent, gather_consent
from homeroom.errors import InputError


@pytest.mark.parametrize("state", ["given", "refused", "withdrawn"])
def test_a_word_of_the_vocabulary_is_read_in_any_case(state: str) -> None:
    assert check_consent(f" {state.capitalize()} ") == Consent(state)  # type: ignore[arg-type]
    assert check_consent(
        {"state": state, "by": "Ms Ray", "on": "03.05.2026", "basis": "form 7", "text": "by phone"}
    ) == (
        Consent(state, "Ms Ray", "2026-05-03", "form 7", "by phone")  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("empty", [None, "", "  ", "unstated", {}, {"state": ""}])
def test_nothing_is_unstated(empty: object) -> None:
    assert check_consent(empty) is None


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("refused by the mother", "did you mean refused?"),
        ("gven", "did you mean given?"),
        ("withdrawed", "did you mean withdrawn?"),
        ("not given", "consent_text"),
        ("yes", "consent_text"),
        ("no", "consent_text"),
        (True, "write given"),
        (1, "write given"),
    ],
)
def test_other_words_are_refused_and_the_near_one_is_named(text: object, meant: str) -> None:
    with pytest.raises(InputError, match="is no state of consent") as problem:
        check_consent(text)
    assert meant in problem.value.remedy
    assert ("did you mean" in problem.value.remedy) == ("did you mean" in meant)


def test_who_without_what_is_refused_and_words_alone_wait_for_a_person() -> None:
    with pytest.raises(InputError, match="not what"):
        check_consent(gather_consent({"consent_by": "Ms Ray"})["consent"])
    words = check_consent(gather_consent({"consent_text": "letter of 3 May"})["consent"])
    assert words == Consent(text="letter of 3 May")
    assert words is not None
    assert words.is_undecided
    assert not Consent(text="letter of 3 May", by="Ms Ray").is_undecided
    with pytest.raises(InputError, match="two days"):
        check_consent({"state": "given", "on": "03/04/2027"})
    with pytest.raises(InputError, match="has no 'who'"):
        check_consent({"state": "given", "who": "x"})
    with pytest.raises(InputError, match="beside it"):
        gather_consent({"consent": {"state": "given"}, "consent_by": "x"})
