"""The LoRA adapter of the M3T model: its segments of theta, its frozen weights, and the states that heads read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from homeroom.contract.canonical_json import digest
from homeroom.contract.graph_io import INPUT_IDS, PIXELS
from homeroom.contract.layout import Layout, Parameter, Segment
from homeroom.contract.manifest import ImagePreprocess, Modality, Precision
from homeroom_exporter.model import ladder
from homeroom_exporter.model.lora import encoder
from homeroom_exporter.model.lora.architectures import EncoderShape
from homeroom_exporter.model.lora.encoder import Saved
from homeroom_exporter.model.lora.frozen_weights import FrozenWeights
from homeroom_exporter.model.lora.unpadded_rows import UnpaddedRows

Trained = Literal["a-frozen", "both"]
PREFIX = "frozen."  # of the names of frozen arrays in graphs
Parts = Mapping[str, Mapping[str, Tensor]]
Feeds = Mapping[str, Tensor]


@dataclass(frozen=True)
class Factor:
    """Where LoRA stands: `name` is ours, `path` the model's. The layer adds scaling * B A x (Hu et al. 2021)."""

    name: str
    path: str
    rank: int
    alpha: float
    scaling: float


@dataclass(frozen=True)
class Adapter:
    """LoRA inside the encoder of one modality. frozen: its weights as graphs read them, names with PREFIX.

    first: the first A [rank, in] and B [out, rank] by path, float32; with `a-frozen` (FFA-LoRA, Sun et al. 2024) A
    stays so, because averages of A and of B are not the average of B A. reference: the unquantized weights.
    recompute: a gradient computes each block's activations twice and keeps none. pairs: whether a head reads tokens.
    """

    modality: Modality
    shape: EncoderShape
    frozen: FrozenWeights
    factors: tuple[Factor, ...]
    first: Mapping[str, tuple[np.ndarray, np.ndarray]]
    trained: Trained
    base: str
    recompute: bool = False
    pairs: bool = False
    reference: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def precision(self) -> Precision:
        """Of the frozen weights."""
        return self.frozen.precision

    def segments(self, width: int) -> list[Segment]:
        """One for each trained factor, then the bridge from hidden states to the model's width."""
        segments = []
        reads = (self.modality.features_id,)
        for factor in self.factors:
            out, into = self.shape.dimensions(factor.name)
            settings: dict[str, object] = {"rank": factor.rank, "scaling": factor.scaling}
            sides = [("A", (factor.rank, into))] if self.trained == "both" else []
            sides.append(("B", (out, factor.rank)))
            if self.trained == "a-frozen":
                a = self.first[factor.path][0]
                settings["a"] = digest(a.tobytes())[:16]  # a B means nothing beside another A
            for side, shape in sides:
                segments.append(
                    Segment(
                        name=segment_name(factor.path, side),
                        parameters=(Parameter(f"lora_{side}", shape),),
                        meaning=ladder.meaning("lora/1", side=side, **settings),
                        reads=reads,
                        modality=self.modality.name,
                    )
                )
        tokens = (Parameter("tokens.weight", (self.shape.width, width)), Parameter("tokens.bias", (width,)))
        segments.append(
            Segment(
                name=self.bridge,
                parameters=(
                    *(tokens if self.pairs else ()),
                    Parameter("out.weight", (self.shape.width, width)),
                    Parameter("out.bias", (width,)),
                ),
                meaning=ladder.meaning("bridge/1", width=width, pool="mean" if self.textual else "first"),
                reads=reads,
                modality=self.modality.name,
            )
        )
        return segments

    @property
    def bridge(self) -> str:
        """The name of the segment from hidden states to the model's width."""
        return f"bridge.{self.modality.name}"

    @property
    def textual(self) -> bool:
        """Whether the encoder reads texts, else images."""
        return self.modality.name == "text"

    @property
    def input(self) -> str:
        """What follows a slot's name in the graph's input."""
        return INPUT_IDS if self.textual else PIXELS

    def ranked(self, rank: Callable[[int], int]) -> Adapter:
        """The adapter with the first components of each layer, as many as `rank` says of all; scaling stays."""
        factors = tuple(replace(factor, rank=rank(factor.rank)) for factor in self.factors)
        ranks = {factor.path: factor.rank for factor in factors}
        first = {path: (a[: ranks[path]], b[:, : ranks[path]]) for path, (a, b) in self.first.items()}
        frozen = self.frozen
        if self.trained == "a-frozen":
            frozen = frozen.having({f"{PREFIX}{factor.name}.A": first[factor.path][0] for factor in factors})
        return replace(self, factors=factors, first=first, frozen=frozen)

    def initial(self, layout: Layout, theta: np.ndarray) -> np.ndarray:
        """theta [P] with the first factors in their places."""
        parts = {}
        for factor in self.factors:
            a, b = self.first[factor.path]
            parts[segment_name(factor.path, "B")] = b.ravel()
            if self.trained == "both":
                parts[segment_name(factor.path, "A")] = a.ravel()
        return layout.join(parts, theta)

    def scaled(self, parts: Parts, feeds: Feeds) -> dict[str, tuple[Tensor, Tensor]]:
        """(A, scaling * B) by our name of the layer."""
        factors = {}
        for factor in self.factors:
            b = parts[segment_name(factor.path, "B")]["lora_B"] * factor.scaling
            if self.trained == "both":
                a = parts[segment_name(factor.path, "A")]["lora_A"]
            else:
                a = feeds[f"{PREFIX}{factor.name}.A"]
            factors[factor.name] = (a, b)
        return factors

    def states(
        self, parts: Parts, feeds: Feeds, inputs: Tensor, mask: Tensor, *, keep: bool, x: Tensor | None = None
    ) -> tuple[Tensor, list[Saved]]:
        """Hidden states [rows, tokens, width], zeros for padding, and what `gradients` needs of them.

        inputs, mask: of every row as one batch. x: what the first block reads in place of the inputs, see `between`.
        """
        weights, rows = self.weights(feeds), self.rows(mask)
        x = self._embedded(feeds, inputs, rows) if x is None else x
        y, saved = encoder.forward(self.shape, weights, self.scaled(parts, feeds), x, rows, keep=keep)
        return rows.unpack(y).reshape(rows.count, -1, self.shape.width), saved

    def between(
        self, feeds: Feeds, inputs: Tensor, references: Tensor, along: Tensor, rows: UnpaddedRows
    ) -> tuple[Tensor, Tensor]:
        """What the first block reads on the straight line from references (`along` 0) to inputs (1), and the two ends'
        difference, [n, width]; along: float32 [rows].
        """
        start = self._embedded(feeds, references, rows)
        difference = self._embedded(feeds, inputs, rows) - start
        each = rows.pack(along.unsqueeze(1).expand(-1, rows.tokens).reshape(-1, 1))
        return start + each * difference, difference

    def gradients(
        self, parts: Parts, feeds: Feeds, mask: Tensor, saved: list[Saved], dy: Tensor, *, each: int | None = None
    ) -> dict[str, dict[str, Tensor]]:
        """By segment and parameter; dy: the gradient of `states`. each: so many samples that the rows belong to, in
        order, and gradients of each by itself, [each, ...].
        """
        factors, rows = self.scaled(parts, feeds), self.rows(mask)
        flat = rows.pack(dy.reshape(-1, self.shape.width))
        by_layer, _ = encoder.backward(self.shape, self.weights(feeds), factors, saved, rows, flat, each)
        gradients = {}
        for factor in self.factors:
            da, db = by_layer[factor.name]
            gradients[segment_name(factor.path, "B")] = {"lora_B": db * factor.scaling}
            if self.trained == "both":
                gradients[segment_name(factor.path, "A")] = {"lora_A": da}
        return gradients

    def pulls(
        self, parts: Parts, feeds: Feeds, mask: Tensor, saved: list[Saved], dy: Tensor, difference: Tensor
    ) -> Tensor:
        """The gradient of what the first block read times `difference`, summed by token: [rows, tokens]."""
        factors, rows = self.scaled(parts, feeds), self.rows(mask)
        flat = rows.pack(dy.reshape(-1, self.shape.width))
        _, dx = encoder.backward(self.shape, self.weights(feeds), factors, saved, rows, flat)
        return rows.unpack((dx * difference).sum(-1, keepdim=True)).reshape(rows.count, rows.tokens)

    def plain_states(self, parts: Parts, feeds: Feeds, inputs: Tensor, mask: Tensor, x: Tensor | None = None) -> Tensor:
        """As `states`, in the textbook form that torch's autograd differentiates."""
        rows = self.rows(mask)
        x = self._embedded(feeds, inputs, replace(rows, mask=None)) if x is None else x
        y = encoder.plain(self.shape, self.weights(feeds), self.scaled(parts, feeds), x, rows)
        y = y.reshape(rows.count, -1, self.shape.width)
        return y * mask.unsqueeze(-1) if self.textual else y

    def _embedded(self, feeds: Feeds, inputs: Tensor, rows: UnpaddedRows) -> Tensor:
        if isinstance(self.modality.preprocess, ImagePreprocess):
            spec = self.modality.preprocess
            mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (spec.mean, spec.std))
            pixels = inputs.to(torch.float32) * (1 / (255 * std)) - mean / std
            inputs = encoder.patched(self.shape, pixels)
        return encoder.embed(self.shape, self.weights(feeds), inputs, rows)

    def rows(self, mask: Tensor) -> UnpaddedRows:
        """The layout of a batch's tokens; mask: float32 [rows, tokens]."""
        if self.textual:
            return UnpaddedRows(len(mask), mask.shape[1], self.shape.heads, mask)
        return UnpaddedRows(len(mask), encoder.tokens_of(self.shape), self.shape.heads)

    def weights(self, feeds: Feeds) -> dict[str, Tensor]:
        """The frozen weights among a graph's inputs, by name."""
        return {name.removeprefix(PREFIX): value for name, value in feeds.items() if name.startswith(PREFIX)}

    def cross(
        self, parameters: Mapping[str, Tensor], states: Tensor, mask: Tensor, presence: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The bridge: states [rows, tokens, width] to tokens of the model's width, and one vector a row.

        Texts are averaged over their tokens, of a picture the first token counts. An absent row gives zeros.
        """
        if self.textual:
            share = mask / mask.sum(-1, keepdim=True).clamp(min=1.0)
            pooled = (share.unsqueeze(1) @ states).squeeze(1)
        else:
            pooled = states[:, 0]
        vector = ladder.rms(pooled @ parameters["out.weight"] + parameters["out.bias"]) * presence
        if not self.pairs:
            return states, vector
        rows, tokens, width = states.shape
        flat = states.reshape(rows * tokens, width) @ parameters["tokens.weight"] + parameters["tokens.bias"]
        return ladder.rms(flat).reshape(rows, tokens, -1), vector


def segment_name(path: str, side: str) -> str:
    """The segment of one LoRA factor; side: A or B."""
    return f"lora.{path}.{side}"
