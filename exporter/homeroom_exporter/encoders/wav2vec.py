"""Audio by a transformers model that reads the waveform: wav2vec2-, HuBERT-, WavLM- and data2vec-shaped.

Baevski et al. 2020 and 2022, Hsu et al. 2021. The model's own extractor says (`return_attention_mask`) whether it reads
clips that are padded with zeros, as most base sizes do, or attends to no padding (the large sizes, XLS-R).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from homeroom.contract.graph_io import AUDIO
from homeroom.contract.manifest import AudioPreprocess
from homeroom.errors import ExportError
from homeroom_exporter.encoders import processors
from homeroom_exporter.encoders.hidden_states import HiddenStates, chosen_layers, float_bytes, layers_graph, quiet_torch
from homeroom_exporter.encoders.spec import Encoder, EncoderSpec
from homeroom_exporter.quantize.graph_surgery import pool_spans

TOKENS_A_SECOND = 10
SECONDS = 2.0
RATE = 16_000


class MaskedStates(HiddenStates):
    """Hidden states of a model that attends to a clip's own samples alone: those up to the last that is not 0."""

    def forward(self, audio: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Hidden states of audio float32 [batch, samples]."""
        first = frame_samples(self.model.config)  # counts even in a window of zeros
        sounds = torch.cat([torch.ones_like(audio[:, :first]), (audio[:, first:] != 0).to(audio.dtype)], 1)
        mask = (sounds.flip(1).cumsum(1) > 0).flip(1).long()
        return super().forward(audio, mask)


def frame_samples(config: Any) -> int:
    """The samples that one frame is made of."""
    samples = 1
    for kernel, stride in zip(config.conv_kernel[::-1], config.conv_stride[::-1], strict=True):
        samples = (samples - 1) * stride + kernel
    return samples


def load(
    spec: EncoderSpec, model: Any, source: str, where: Any, name: str, licences: Any, files: dict[str, Path]
) -> Encoder:
    """Taps are `layer.<n>`; frames of 20 ms are averaged to tokens of 100 ms."""
    config = model.config
    if not hasattr(config, "conv_stride"):
        remedy = "use a Whisper-, wav2vec2- or HuBERT-shaped model"
        raise ExportError(f"sound by {config.model_type} is not supported", where=spec.source, remedy=remedy)
    config.apply_spec_augment = False
    seconds = spec.seconds or SECONDS
    settings = processors.sound_settings(source, where, spec, processors.WAVEFORM)
    rate = int(settings["sampling_rate"])
    samples, tokens = round(seconds * rate), max(1, round(seconds * TOKENS_A_SECOND))
    if samples < frame_samples(config):
        fault = f"a window of {seconds:g} s is shorter than a frame of the model, {frame_samples(config)} samples"
        raise ExportError(fault, where=spec.source, remedy=f"seconds = {SECONDS:g}, or what the longest clips take")
    chosen = chosen_layers(spec, config.num_hidden_layers)
    kind = MaskedStates if settings["return_attention_mask"] else HiddenStates
    module, silent = kind(model.eval(), chosen), torch.zeros(2, samples)
    with quiet_torch():
        shape = module(silent)[0].shape
    tokens = min(tokens, shape[1])
    graph = layers_graph(module, silent, {AUDIO: (AUDIO, ("batch", samples))})
    taps = tuple(f"layer.{i}" for i in chosen)
    for tap in taps:
        pool_spans(graph, tap, shape[1], tokens)
    preprocess = AudioPreprocess(rate, samples, "waveform", normalize=bool(settings["do_normalize"]))
    return Encoder(name, graph, taps, (tokens,), preprocess, "dynamic", float_bytes(model), licences, files)
