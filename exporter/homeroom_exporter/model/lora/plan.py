"""The plan of an adapter: the recipe's `[adapter]` table, or a PEFT checkpoint to start from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from homeroom.contract.canonical_json import digest, identity
from homeroom.contract.manifest import ModalityName

Rank = Annotated[int, msgspec.Meta(ge=1, le=512)]


class AdapterPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[adapter]`. targets: layers by the end of their path, as PEFT's target_modules; ranks: exceptions, by path.

    federated: `a-frozen` trains B alone and lets a federation average it, `both` trains A too. modality: whose encoder
    it is inside, the only one if absent. recompute: less memory for more time.
    """

    family: Literal["lora"]
    modality: ModalityName | None = None
    rank: Rank = 8
    alpha: Annotated[float, msgspec.Meta(gt=0, le=1024)] = 16.0
    targets: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=64)] = ("query", "value")
    ranks: dict[str, Rank] = {}
    federated: Literal["a-frozen", "both"] = "a-frozen"
    recompute: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """A PEFT checkpoint. `config`: its adapter_config.json; `factors`: A [rank, in] and B [out, rank] by path."""

    where: str
    config: Mapping[str, Any]
    factors: Mapping[str, tuple[np.ndarray, np.ndarray]]

    @property
    def targets(self) -> str | list[str]:
        """A pattern, or the ends of paths."""
        return (
            str(t)
            if isinstance(t := self.config["target_modules"], str) and t != "all-linear"
            else ([t] if isinstance(t, str) else list(t))
        )

    @property
    def facts(self) -> dict[str, str]:
        """For the bundle's provenance: the values that it started from."""
        values = [[path, digest(a.tobytes()), digest(b.tobytes())] for path, (a, b) in sorted(self.factors.items())]
        return {"peft": identity(values)}

    def rank(self, path: str) -> int:
        """The rank of a layer."""
        return int(self._exception("rank_pattern", path, self.config["r"]))

    def alpha(self, path: str) -> float:
        """The alpha of a layer, before its scaling."""
        return float(self._exception("alpha_pattern", path, self.config["lora_alpha"]))

    def scaling(self, path: str) -> float:
        """The factor of a layer's product: alpha / rank, or alpha / sqrt(rank) (rsLoRA, Kalajdzievski 2023)."""
        rank = self.rank(path)
        return self.alpha(path) / (rank**0.5 if self.config.get("use_rslora") else rank)

    def _exception(self, table: str, path: str, default: Any) -> Any:
        """As PEFT reads rank_pattern and alpha_pattern: a pattern for the end of the path."""
        patterns = self.config.get(table) or {}
        return next((v for k, v in patterns.items() if re.match(rf"(.*\.)?({k})$", path)), default)
