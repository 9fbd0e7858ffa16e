"""The manifest's section on statistics: what a sample's vector is made of, by block."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal

import msgspec

from homeroom.contract.canonical_json import identity
from homeroom.contract.statistics.sums import GRID_BITS

BLOCK_LIMIT = 64
DIMENSION_LIMIT = 96  # of a block, and a quarter of the calibration samples that have it
RAW_FORMAT = 1  # of the numbers before projection (`homeroom.train.solve.vectors`); a change of them raises it

Components = Annotated[int, msgspec.Meta(ge=1, le=DIMENSION_LIMIT)]
Hash = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
BlockKind = Literal["taps", "text", "table", "pair", "overlap", "letters"]
OF_TWO_TEXTS: tuple[BlockKind, ...] = ("pair", "overlap")
NAMED_KINDS: tuple[BlockKind, ...] = (*OF_TWO_TEXTS, "letters")  # beside another block of the same slots
LETTERS_DIMENSION_LIMIT = 32
PAIR_KINDS = ("choice", "matching")  # of tasks that compare two slots: their heads may read letters, fewer components


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """One part of a sample's vector.

    kind: taps: the features of one slot, picture or sound. text: those and surface numbers. table: the columns.
        pair: the features of two texts, read together. overlap: how much of one is in the other.
        letters: the letters of one slot of texts, without their number.
    slots: that it reads
    inputs: of each slot
    width: numbers before projection
    dimension: principal components kept
    """

    statistics_id: Hash
    kind: BlockKind
    slots: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=2)]
    inputs: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1
    width: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
    dimension: Annotated[int, msgspec.Meta(ge=1, le=DIMENSION_LIMIT)]

    @property
    def name(self) -> str:
        """The name of its arrays: of its slots, and the kind where it is one of NAMED_KINDS."""
        return ".".join((*self.slots, *([self.kind] if self.kind in NAMED_KINDS else [])))


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """Statistics of a bundle; an older bundle has none, and its heads are trained alone.

    file: safetensors; for each block `{name}.mean` and `{name}.weight` float32 [width] and `{name}.matrix` float32
        [width, dimension], see `homeroom.train.solve.vectors.projection`; `homeroom.train.solve.vectors.letters`
    blocks: each with slots of its own, but for letters
    letters: tasks that read blocks of letters; a later field, absent where none does
    letters_alone: those of them that read no other block of a slot with letters; absent where none is so
    components: of each block, the first that heads of these choice and matching tasks read; a later field, which
        earlier releases pass over: their heads read all
    subject_limit: samples of one subject that count in a task
    shrinkage: of the shared covariance, and prior_power of the classes' shares, where a device starts
    """

    file: str
    blocks: Annotated[tuple[Block, ...], msgspec.Meta(min_length=1, max_length=BLOCK_LIMIT)]
    subject_limit: Annotated[int, msgspec.Meta(ge=1, le=1 << 24)] = 1000
    shrinkage: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 1.0
    prior_power: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5

    letters: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] | msgspec.UnsetType = msgspec.UNSET
    letters_alone: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] | msgspec.UnsetType = msgspec.UNSET
    components: dict[str, Components] | msgspec.UnsetType = msgspec.UNSET

    def read_by(self, task: str, reads: Collection[str]) -> list[Block]:
        """The blocks that samples of a task may have, of letters only where it reads them. reads: its slots."""
        letters = task in self.letter_tasks
        alone = letters and self.letters_alone is not msgspec.UNSET and task in self.letters_alone
        lettered = {block.slots for block in self.blocks if block.kind == "letters"} if alone else set()
        found = [b for b in self.blocks if set(b.slots) <= set(reads) and (b.kind != "letters" or letters)]
        return [b for b in found if b.kind == "letters" or b.slots not in lettered]

    @property
    def letter_tasks(self) -> tuple[str, ...]:
        """The tasks that read blocks of letters."""
        return () if self.letters is msgspec.UNSET else self.letters


def statistics_id(kind: BlockKind, slots: tuple[str, ...], features: tuple[str, ...], projection_sha256: str) -> str:
    """The identity of a block: sums merge where slots, features and projection are the same.

    features: the `features_id` of each slot; of letters the digest of their spelling
    projection_sha256: of the block's mean, weight and matrix, float32, one after another
    """
    return identity(
        {
            "kind": kind,
            "slots": list(slots),
            "features": list(features),
            "projection": projection_sha256,
            "raw": RAW_FORMAT,
            "grid_bits": GRID_BITS,
        }
    )
