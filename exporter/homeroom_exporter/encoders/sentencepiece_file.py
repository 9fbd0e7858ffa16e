"""A SentencePiece model of unigram pieces as a `tokenizers` file that gives the same ids.

Kudo and Richardson 2018. Its rules of normalisation, `nmt_nfkc`, are NFKC of every code point but for the few below,
and are written as such: the library's own reader of compiled rules takes a letter with its marks as one, and loses
marks.
"""

from __future__ import annotations

import json
from typing import Any

from homeroom.errors import ExportError

RULES = "nmt_nfkc"
BLANKS = "[\t\n\f\r\u1680\u200b\u200e\u200f\u2028\u2029\u2581\ufeff\ufffd]"  # a blank in nmt_nfkc, not in NFKC
WIDE_TILDE, UNASSIGNED = "\uff5e", "\U0010ffff"  # the one form that nmt_nfkc leaves as it is, and what hides it
UNIGRAM, UNKNOWN, CONTROL = 1, 2, 3  # of ModelProto
HIDDEN = "\u2581\u2581"  # before the names of pieces that are no text: blanks are made one, so that nobody types it


def as_tokenizer(model: bytes, where: str) -> str:
    """The JSON text of a tokenizer: `<s>`, the pieces, `</s>`; a run of unknown characters is one piece.

    An empty text has no piece, and `<s>` or `</s>` in a text stays text. Raises ExportError for other models.
    """
    proto = _parsed(model, where)
    kinds = {piece.piece: piece.type for piece in proto.pieces}
    fault = ""
    if proto.trainer_spec.model_type != UNIGRAM or proto.trainer_spec.byte_fallback:
        fault = "is no SentencePiece model of unigram pieces without bytes"
    elif proto.normalizer_spec.name != RULES:
        fault = f"normalises texts by {proto.normalizer_spec.name or 'rules of its own'}, only {RULES} is built"
    elif not proto.pieces or proto.pieces[0].type != UNKNOWN or not {"<s>", "</s>"} <= kinds.keys():
        fault = "has no unknown piece in the first place, or no <s> and </s>"
    if fault:
        raise ExportError(fault, where=where, remedy="choose another model")
    vocabulary = [[HIDDEN * (p.type in (UNKNOWN, CONTROL)) + p.piece, p.score] for p in proto.pieces]
    numbers = {piece.piece: number for number, piece in enumerate(proto.pieces)}
    document: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": _normalizers()},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [_special("<s>"), _text("A"), _special("</s>")],
            "pair": [_special("<s>"), _text("A"), _text("B"), _special("</s>")],
            "special_tokens": {n: {"id": n, "ids": [numbers[n]], "tokens": [n]} for n in ("<s>", "</s>")},
        },
        "decoder": None,
        "model": {"type": "Unigram", "unk_id": 0, "vocab": vocabulary, "byte_fallback": False},
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def _parsed(model: bytes, where: str) -> Any:
    from transformers.utils import sentencepiece_model_pb2_new as sentencepiece

    proto = sentencepiece.ModelProto()
    try:
        proto.ParseFromString(model)
    except Exception:  # protobuf's own
        raise ExportError("is no SentencePiece model", where=where, remedy="choose another model") from None
    return proto


def _normalizers() -> list[dict[str, Any]]:
    """nmt_nfkc, then one blank for many and none at the ends."""
    hide, show = _replaced(WIDE_TILDE, UNASSIGNED), _replaced(UNASSIGNED, WIDE_TILDE)
    return [_replaced(BLANKS, " "), hide, {"type": "NFKC"}, show, _replaced(" {2,}", " "), _replaced("^ | $", "")]


def _replaced(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def _special(name: str) -> dict[str, Any]:
    return {"SpecialToken": {"id": name, "type_id": 0}}


def _text(name: str) -> dict[str, Any]:
    return {"Sequence": {"id": name, "type_id": 0}}
