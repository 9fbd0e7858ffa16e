"""Preprocessing of texts: token ids of the bundle's own tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from homeroom.contract.graph_io import ATTENTION_MASK, INPUT_IDS
from homeroom.contract.manifest import Modality, PreprocessVersion, TextPreprocess
from homeroom.data.preprocess.plain_text import plain
from homeroom.data.preprocess.prepared import Prepared
from homeroom.errors import BundleError, InputError
from homeroom.system.files import read_small

UNKNOWN_SHARE = 0.1  # of a text, beyond which a device says so
UNREAD_LIMIT_BYTES = 1 << 20  # a bit for each of eight million pieces
NOBODYS = "\ue000"  # of private use


@lru_cache(maxsize=4)
def _tokenizer(path: Path, limit: int) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as problem:  # the library raises bare Exception
        raise BundleError(f"is not a tokenizer: {problem}", where=path.name) from None
    tokenizer.no_padding()
    tokenizer.enable_truncation(limit)
    return tokenizer


def prepare(tokenizer: Path, text: str, limit: int, version: PreprocessVersion = 1) -> Prepared:
    """`input_ids` int64 [n] with special tokens, truncated to `limit`; InputError if there is no token."""
    ids = np.array(_tokenizer(tokenizer, limit).encode(read(text, version)).ids, np.int64)
    if not len(ids):
        raise InputError("the text has no token", where="text", remedy="leave the input out instead")
    return Prepared({INPUT_IDS: ids}, len(ids))


def read(text: str, version: PreprocessVersion) -> str:
    """The text as the tokenizer gets it: from version 2 on, the plain one."""
    return text if version == 1 else plain(text).text


def is_longer(tokenizer: Path, text: str, limit: int, version: PreprocessVersion = 1) -> bool:
    """Whether `prepare` leaves out the text's end."""
    return bool(_tokenizer(tokenizer, limit).encode(read(text, version)).overflowing)


def unread_end(tokenizer: Path, text: str, limit: int, version: PreprocessVersion) -> str:
    """The end of the text that `prepare` leaves out; empty where it leaves none."""
    encoding = _tokenizer(tokenizer, limit).encode(read(text, version))
    if not encoding.overflowing:
        return ""
    last = max(end for _, end in encoding.offsets)
    return text[last:] if version == 1 else text[plain(text).origin(0, last)[1] if last else 0 :]


def unknown_words(modality: Modality, text: str, bundle_file: Callable[[str], Path]) -> str:
    """Says so where more than UNKNOWN_SHARE of a text's letters and digits are in pieces that the encoder reads as
    unknown; empty else, and where it is not known which languages it reads.
    """
    spec, limit = modality.preprocess, modality.buckets[-1]
    if not isinstance(spec, TextPreprocess) or not modality.known_languages:
        return ""
    tokenizer, plain_text = bundle_file(spec.tokenizer), read(text, spec.version)
    unknown = _unknown_ids(tokenizer, limit, bundle_file(spec.unread) if spec.unread else None)
    encoding, sizes = _tokenizer(tokenizer, limit).encode(plain_text), [0, 0]
    for number, (start, end), special in zip(encoding.ids, encoding.offsets, encoding.special_tokens_mask, strict=True):
        sizes[number in unknown] += 0 if special else sum(map(str.isalnum, plain_text[start:end]))
    if sizes[True] <= UNKNOWN_SHARE * sum(sizes):
        return ""
    return f"more than a tenth is unknown to the model, which reads {', '.join(modality.known_languages)}"


@lru_cache(maxsize=4)
def _unknown_ids(tokenizer: Path, limit: int, unread: Path | None) -> frozenset[int]:
    """The ids of what the tokenizer has no piece for, and of pieces that the encoder does not read."""
    known = _tokenizer(tokenizer, limit)
    name = getattr(known.model, "unk_token", None)
    if name is None:  # a model of unigrams does not say: the id of a character that is nobody's
        encoding = known.encode(NOBODYS)
        ids = [n for n, special in zip(encoding.ids, encoding.special_tokens_mask, strict=True) if not special]
        found = {*ids[-1:]}
    else:
        found = {known.token_to_id(name)}
    if unread is not None:
        found.update(
            np.flatnonzero(np.unpackbits(np.frombuffer(read_small(unread, UNREAD_LIMIT_BYTES), np.uint8))).tolist()
        )
    return frozenset(found)


def word_spans(tokenizer: Path, text: str, limit: int, version: PreprocessVersion = 1) -> list[tuple[int, int] | None]:
    """For each token of `prepare`, the [start, end) of its word in the text's characters; None for special tokens."""
    shown = None if version == 1 else plain(text)
    encoding = _tokenizer(tokenizer, limit).encode(shown.text if shown else text)
    edges: dict[int, tuple[int, int]] = {}
    for number, (start, end) in zip(encoding.word_ids, encoding.offsets, strict=True):
        if number is not None:
            first, last = edges.get(number, (start, end))
            edges[number] = (min(first, start), max(last, end))
    if shown:
        edges = {number: shown.origin(*span) for number, span in edges.items()}
    return [None if number is None else edges[number] for number in encoding.word_ids]


def collate(prepared: Sequence[Prepared], length: int, pad_id: int) -> dict[str, np.ndarray]:
    """`input_ids` and `attention_mask`, int64 [batch, length]."""
    ids = np.full((len(prepared), length), pad_id, np.int64)
    mask = np.zeros((len(prepared), length), np.int64)
    for row, item in enumerate(prepared):
        ids[row, : item.tokens] = item.arrays[INPUT_IDS]
        mask[row, : item.tokens] = 1
    return {INPUT_IDS: ids, ATTENTION_MASK: mask}
