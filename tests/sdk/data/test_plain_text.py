"""A text reads alike however it was typed or pasted, and every place in it is one of the person's own text."""

from __future__ import annotations

import unicodedata

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from homeroom.data.preprocess.plain_text import plain
from homeroom.data.preprocess.text import prepare, unread_end, word_spans

TOKENIZER = tiny.bundle().path / "tokenizer" / "text.json"
SAME = {
    "letters and accents apart": ("cafe\u0301 \u1112\u1161\u11ab", "café 한"),
    "half-width kana": ("\uff76\uff9e", "ガ"),
    "ligatures": ("\ufb01sh \ufb02ies", "fish flies"),
    "Arabic presentation forms": ("\ufefb", "لا"),
    "letters of mathematics and wide ones": ("\U0001d41a \uff22", "a B"),
    "soft hyphens and zero width": ("ele\u00adphant\u200b\u2060\ufeff", "elephant"),
    "joiners between Latin letters": ("fo\u200dx\u200c", "fox"),
    "curly quotes": ("“the cat’s”", '"the cat\'s"'),
    "blanks and line breaks": ("\u00a0the\r\n red\u2028cat \u3000", "the red cat"),
    "entities": ("Tom &amp; the&nbsp;c&auml;t &#8211; &#x41;", "Tom & the cät – A"),
    "an entity with a mark": ("e&#769;", "é"),
    "tags": ("<p>The <b>red</b> c<i>a</i>t</p><p class='x'>runs<br/>on</p>", "The red cat runs on"),
    "what a page hides": ("<!--x--><div>a<script>var b;</script><style>p {}</style></div>", "a"),
    "a line break alone": ("the cat<br>the dog<BR />", "the cat the dog"),
}
AS_WRITTEN = {
    "a question about tags": "Which tag makes a heading: <h1> or <p>?",
    "a break in a sentence": "What does <br> do?",
    "mathematics": "if a < b and c > d, x² + ½ = ①",
    "an entity that is none": "AT&T; Q&A &nosuch; &notit; R&D",
    "joiners that change letters": "می\u200cخواهم \U0001f469\u200d\U0001f3eb",
    "plain": "The red cat runs.",
}


@pytest.mark.parametrize("case", SAME)
def test_what_reads_alike_is_read_alike(case: str) -> None:
    written, meant = SAME[case]
    assert plain(written).text == meant


@pytest.mark.parametrize("case", AS_WRITTEN)
def test_what_a_person_wrote_is_not_taken_for_a_page(case: str) -> None:
    assert plain(AS_WRITTEN[case]).text == AS_WRITTEN[case]


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_a_plain_text_is_composed_and_its_places_rise(written: str) -> None:
    found = plain(written)
    assert unicodedata.is_normalized("NFC", found.text)
    assert len(found.starts) == len(found.ends) == len(found.text)
    assert list(found.starts) == sorted(found.starts)
    assert all(0 <= a < b <= len(written) for a, b in zip(found.starts, found.ends, strict=True))


@given(st.text("ab é\u0301ж字", max_size=40))
def test_each_letter_has_its_own_place(written: str) -> None:
    found = plain(written)
    for letter, start, end in zip(found.text, found.starts, found.ends, strict=True):
        origin = written[start:end]
        assert letter == " " or (letter in unicodedata.normalize("NFC", origin) and len(origin.strip("\u0301")) <= 1)


def test_a_word_is_marked_where_it_stands_in_the_persons_own_text() -> None:
    written = "<p>the &quot;r\u00aded&quot;&nbsp;cat</p>"
    spans = word_spans(TOKENIZER, written, 16, 2)
    words = [written[span[0] : span[1]] for span in dict.fromkeys(spans) if span]
    assert words[0] == "the"
    assert {"r\u00aded", "cat"} <= set(words)
    assert (
        prepare(TOKENIZER, written, 16, 2).arrays["input_ids"]
        == prepare(TOKENIZER, 'the "red" cat', 16).arrays["input_ids"]
    ).all()


def test_the_end_that_is_not_read_is_the_persons_own() -> None:
    written = "the cat " * 8 + "not the d\u00adog"
    assert unread_end(TOKENIZER, written, 16, 2).endswith("not the d\u00adog")
    assert unread_end(TOKENIZER, written, 64, 2) == ""
