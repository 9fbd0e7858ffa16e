"""Transformer architectures that can carry LoRA: each family's weights under one set of names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from homeroom.errors import ExportError

LINEARS = ("query", "key", "value", "out", "up", "down")
OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert")  # their positions start after the padding's

BERT = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm.1": "attention.output.LayerNorm",
    "norm.2": "output.LayerNorm",
}
DISTILBERT = {
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "out": "attention.out_lin",
    "up": "ffn.lin1",
    "down": "ffn.lin2",
    "norm.1": "sa_layer_norm",
    "norm.2": "output_layer_norm",
}
VIT = {
    "query": "attention.attention.query",
    "key": "attention.attention.key",
    "value": "attention.attention.value",
    "out": "attention.output.dense",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm.1": "layernorm_before",
    "norm.2": "layernorm_after",
}
FAMILIES = {
    "bert": ("text", "encoder.layer", BERT),
    **{name: ("text", "encoder.layer", BERT) for name in OFFSET_POSITIONS},
    "distilbert": ("text", "transformer.layer", DISTILBERT),
    "vit": ("image", "encoder.layer", VIT),
}


@dataclass(frozen=True)
class EncoderShape:
    """An encoder of `layers` blocks. `before`: norms stand before attention and MLP (ViT) and once at the end.

    modules: the model's own path of each linear layer, such as `encoder.layer.0.attention.self.query`, by ours,
    such as `0.query`. words: of the vocabulary; start: the first token's position; size, patch: of pictures.
    """

    family: str
    modality: str
    layers: int
    width: int
    heads: int
    inner: int
    epsilon: float
    before: bool
    modules: Mapping[str, str]
    words: int = 0
    start: int = 0
    size: int = 0
    patch: int = 0

    def dimensions(self, name: str) -> tuple[int, int]:
        """(out, in) of a linear layer by our name."""
        kind = name.rpartition(".")[2]
        rows = self.inner if kind == "up" else self.width
        return rows, self.inner if kind == "down" else self.width


def shape_of(config: Any, where: str) -> EncoderShape:
    """The shape that a transformers configuration describes; ExportError if LoRA has not been built for it."""
    if config.model_type not in FAMILIES:
        known = f"one of {', '.join(FAMILIES)}"
        raise ExportError(f"LoRA inside {config.model_type} is not built", where=where, remedy=known)
    modality, stem, names = FAMILIES[config.model_type]
    activation = getattr(config, "hidden_act", None) or config.activation
    if activation != "gelu":
        raise ExportError(f"its activation {activation} is not built", where=where, remedy="choose a model with gelu")
    if getattr(config, "position_embedding_type", "absolute") != "absolute":
        raise ExportError("relative positions are not built", where=where, remedy="choose a model with absolute ones")
    inner = config.hidden_dim if config.model_type == "distilbert" else config.intermediate_size
    return EncoderShape(
        family=config.model_type,
        modality=modality,
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads=config.num_attention_heads,
        inner=inner,
        epsilon=getattr(config, "layer_norm_eps", 1e-12),
        before=modality == "image",
        modules={
            f"{i}.{kind}": f"{stem}.{i}.{names[kind]}" for i in range(config.num_hidden_layers) for kind in LINEARS
        },
        words=getattr(config, "vocab_size", 0),
        start=config.pad_token_id + 1 if config.model_type in OFFSET_POSITIONS else 0,
        size=getattr(config, "image_size", 0),
        patch=getattr(config, "patch_size", 0),
    )


def weights_of(shape: EncoderShape, state: Mapping[str, Any], limit: int) -> dict[str, np.ndarray]:
    """Every frozen float32 array of the encoder under our names; `limit`: tokens of the longest text.

    `words`, `places` (positions and the first token type, added up), `norm.0`; for pictures `patches`, `patches.bias`,
    `first`, `places`; then `<layer>.<linear>` [out, in], `<layer>.<linear>.bias` and norms as `.gain`, `.bias`.
    """
    stem, names = FAMILIES[shape.family][1:]

    def take(name: str) -> np.ndarray:
        if name not in state:
            raise ExportError(f"lacks the weights {name}", where=shape.family, remedy="give a complete checkpoint")
        return np.ascontiguousarray(state[name].detach().to("cpu").float().numpy())

    found: dict[str, np.ndarray] = {}

    def norm(ours: str, theirs: str) -> None:
        found[f"{ours}.gain"], found[f"{ours}.bias"] = take(f"{theirs}.weight"), take(f"{theirs}.bias")

    if shape.modality == "text":
        places = take("embeddings.position_embeddings.weight")
        places = places[shape.start : shape.start + limit]
        if shape.family != "distilbert":
            places = places + take("embeddings.token_type_embeddings.weight")[0]
        found["words"], found["places"] = take("embeddings.word_embeddings.weight"), places
        norm("norm.0", "embeddings.LayerNorm")
    else:
        patches = take("embeddings.patch_embeddings.projection.weight")
        found["patches"] = patches.reshape(len(patches), -1)
        found["patches.bias"] = take("embeddings.patch_embeddings.projection.bias")
        found["first"] = take("embeddings.cls_token").reshape(1, -1)
        found["places"] = take("embeddings.position_embeddings")[0]
        norm("norm.0", "layernorm")
    for i in range(shape.layers):
        for kind in LINEARS:
            path = f"{stem}.{i}.{names[kind]}"
            found[f"{i}.{kind}"], found[f"{i}.{kind}.bias"] = take(f"{path}.weight"), take(f"{path}.bias")
        for kind in ("norm.1", "norm.2"):
            norm(f"{i}.{kind}", f"{stem}.{i}.{names[kind]}")
    return found
