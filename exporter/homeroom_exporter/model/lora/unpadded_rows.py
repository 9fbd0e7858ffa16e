"""Unpadded rows: the tokens of a batch as matrices without padding in any product but attention's.

A batch of texts is padded to one length, and of short answers in a bucket of 64 tokens four in ten are padding. Which
tokens are there is known only when the graph runs, so a graph picks them by indices that it computes from the mask.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

MASKED_SCORE = 50.0  # e^-50 is nothing beside what is there, and no denormal number, which would be slow


@torch.library.custom_op("homeroom::token_indices", mutates_args=())  # type: ignore[untyped-decorator]
def token_indices(mask: Tensor, heads: int, kind: str) -> Tensor:
    """Indices int64 for a mask float32 [rows, tokens], 1 where a token is; the first counts as one in any case.

    present: [n], the tokens that are there, in rows * tokens. position: [n], of each within its row. inverse:
    [rows * tokens], where of the n each is (some other one's place for padding). split: [rows * heads * tokens], as
    inverse, in n * heads. merge: [n * heads], in rows * heads * tokens.
    """
    rows, tokens = mask.shape
    flat = mask.reshape(-1).clone()
    flat[0] = 1.0
    present = flat.nonzero().reshape(-1)
    inverse = (flat.cumsum(0) - 1).to(torch.int64)
    head = torch.arange(heads)
    if kind == "present":
        return present
    if kind == "position":
        return present % tokens
    if kind == "inverse":
        return inverse
    if kind == "split":
        return (inverse.reshape(rows, 1, tokens) * heads + head.reshape(1, heads, 1)).reshape(-1)
    first = present + (present - present % tokens) * (heads - 1)
    return (first.unsqueeze(1) + head * tokens).reshape(-1)


@torch.library.custom_op("homeroom::regroup", mutates_args=())  # type: ignore[untyped-decorator]
def regroup(x: Tensor, index: Tensor, width: int, columns: int) -> Tensor:
    """x in rows of `width` values, those that the index names, as a matrix of so many columns."""
    return x.reshape(-1, width)[index].reshape(-1, columns)


@dataclass(frozen=True)
class UnpaddedRows:
    """Tokens of `count` rows, n of them in matrices [n, width]; of pictures n is count * tokens.

    mask: float32 [count, tokens], None of pictures. bias: [count, 1, 1, tokens], 0 or -MASKED.
    """

    count: int
    tokens: int
    heads: int
    mask: Tensor | None = None
    _computed: dict[str, Tensor] = field(init=False, repr=False, default_factory=dict)

    @cached_property
    def bias(self) -> Tensor | None:
        """What is added to attention scores: [count, 1, 1, tokens], 0 or -MASKED_SCORE; None of images."""
        return None if self.mask is None else (self.mask - 1.0).reshape(self.count, 1, 1, -1) * MASKED_SCORE

    @cached_property
    def position(self) -> Tensor:
        """int64 [n], of each token within its row."""
        return torch.arange(self.tokens).repeat(self.count) if self.mask is None else self._indices("position")

    def pack(self, x: Tensor) -> Tensor:
        """[count * tokens, ...] -> [n, ...]."""
        return x if self.mask is None else x[self._indices("present")]

    def unpack(self, x: Tensor) -> Tensor:
        """[n, width] -> [count * tokens, width], zeros for padding."""
        return x if self.mask is None else x[self._indices("inverse")] * self.mask.reshape(-1, 1)

    def split(self, x: Tensor, *, zeros: bool = False) -> Tensor:
        """[n, width] -> [count * heads, tokens, width / heads]. For padding anything finite, or zeros."""
        depth = x.shape[1] // self.heads
        if self.mask is None:
            x = x.reshape(self.count, self.tokens, self.heads, depth).transpose(1, 2)
            return x.reshape(-1, self.tokens, depth)
        x = regroup(x, self._indices("split"), depth, depth).reshape(-1, self.tokens, depth)
        if not zeros:
            return x
        shown = self.mask.reshape(self.count, 1, self.tokens, 1).expand(-1, self.heads, -1, -1)
        return x * shown.reshape(-1, self.tokens, 1)

    def merge(self, x: Tensor) -> Tensor:
        """The inverse of `split`."""
        depth = x.shape[2]
        if self.mask is None:
            x = x.reshape(self.count, self.heads, self.tokens, depth).transpose(1, 2)
            return x.reshape(-1, self.heads * depth)
        return regroup(x, self._indices("merge"), depth, self.heads * depth)

    def _indices(self, kind: str) -> Tensor:
        if kind not in self._computed:
            self._computed[kind] = token_indices(self.mask, self.heads, kind)
        return self._computed[kind]
