"""The specification of an encoder in a recipe, and the encoder that every family returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import onnx
from msgspec import UNSET
from numpy.typing import NDArray

from homeroom.contract.manifest import (
    PREPROCESS_VERSION,
    Column,
    Licence,
    Modality,
    ModalityName,
    Preprocess,
    PreprocessVersion,
    Tolerance,
    at_version,
)

SENTENCE = "sentence"  # the tap of an encoder that has a vector for the whole text: the same at each token
USE_LANGUAGES = ("ar", "de", "en", "es", "fr", "it", "ja", "ko", "nl", "pl", "pt", "ru", "th", "tr", "zh")
LANGUAGES_OF = {"pip:use-multilingual": USE_LANGUAGES}  # of encoders that can be had with fewer
UNKNOWN_FEATURES = "0" * 64
Scheme = Literal["dynamic", "static", "none"]


class EncoderSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One `[modality]` table of a recipe.

    source: `pip:minilm`, `pip:use-multilingual`, `pip:efficientnet-lite0`, `pip:whisper-tiny-en`,
    `pip:speech-embedding`, `table`, `interactions`, `hf:<directory or hub name>`, `onnx:<file>`,
    `torch:<file.py>:<factory>`, or `torch:<folder>` where `module` was handed over in Python. taps: layers by number or
    name, or `auto`. dim: channels kept of each tap (<= 127 a value as int8). buckets: token counts of text and
    sequences; ignored where the count is fixed. seconds: window of sound. grid: regions a side of a picture. columns:
    those of a table; their order is the order of the row. skills: those of a sequence. drift: how far, as 1 - mean
    cosine, quantized features may be from float32; the layers that matter most then keep a higher precision. No recipe
    says the last two. every: all layers whatever `taps` says, so that they can be compared. module: a torch module.
    preprocessing: version of what is seen of texts, pictures and sounds. languages: that a text encoder of several is
    to read, as ISO 639-1; all that it can where none is named.
    """

    modality: ModalityName
    source: str
    taps: tuple[int | str, ...] | Literal["auto"] = "auto"
    dim: int = 64
    buckets: tuple[int, ...] = (16, 32, 64)
    seconds: float | None = None
    grid: int | None = None
    quantize: Literal["int8", "int4", "none"] = "int8"
    drift: float = 0.02
    columns: tuple[Column, ...] = ()
    skills: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    preprocessing: PreprocessVersion = PREPROCESS_VERSION
    every: bool = False
    module: Any = None


@dataclass(frozen=True)
class Encoder:
    """A float32 encoder as a graph whose outputs are its taps, float32 [batch, tokens, width], before compression.

    scheme: how its weights become int8: `dynamic` for matrix products, `static` for convolutions (calibrated), `none`
    where there is nothing to gain. keep_float: prefixes of the names of nodes that stay in float32 whatever the scheme.
    scale: float32 [taps, dim] where the graph gives int8 features already and needs no compression. languages: that
    texts may be in; none where that is not known.
    """

    title: str
    graph: onnx.ModelProto
    taps: tuple[str, ...]
    buckets: tuple[int, ...]
    preprocess: Preprocess
    scheme: Scheme
    float_bytes: int
    licences: tuple[Licence, ...] = ()
    files: dict[str, Path] = field(default_factory=dict)
    keep_float: tuple[str, ...] = ()
    scale: NDArray[np.float32] | None = None
    languages: tuple[str, ...] = ()

    def modality(self, spec: EncoderSpec) -> Modality:
        """The manifest's modality, with features whose identity and tolerance are not known yet."""
        return Modality(
            name=spec.modality,
            features_id=UNKNOWN_FEATURES,
            encoder=self.title,
            taps=self.taps,
            dim=spec.dim if self.scale is None else self.scale.shape[1],
            buckets=self.buckets,
            preprocess=at_version(self.preprocess, spec.preprocessing),
            tolerance=Tolerance(1.0, 1.0),
            float_bytes=self.float_bytes,
            languages=self.languages or UNSET,
        )
