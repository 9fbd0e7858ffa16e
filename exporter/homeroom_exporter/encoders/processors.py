"""The model's own processors: settings are read by an allow-list, and ours must make the same of real inputs.

`original` is what the model's authors run; `hold` compares with it value by value at each export.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from homeroom.contract.graph_io import AUDIO, INPUT_IDS, PIXELS
from homeroom.contract.manifest import AudioPreprocess, ImagePreprocess, Modality, TextPreprocess
from homeroom.data.preprocess import audio, image, text
from homeroom.errors import ExportError
from homeroom_exporter.encoders import checkpoint, hub_source
from homeroom_exporter.encoders.checkpoint import PROCESSOR_FILE
from homeroom_exporter.encoders.hidden_states import first_line, quiet_torch
from homeroom_exporter.encoders.spec import EncoderSpec

READ_OF_PICTURES = (
    *("do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor"),
    *("do_normalize", "image_mean", "image_std"),
)
CROP_SHARE = "crop_pct"  # of ConvNext's processor
NAMES = ("image_processor_type", "feature_extractor_type", "processor_class", "_processor_class")
IDLE_OF_PICTURES = ("do_convert_rgb", "data_format", "default_to_square", "_valid_processor_keys")  # ours are RGB
WAVEFORM, LOG_MEL = "Wav2Vec2FeatureExtractor", "WhisperFeatureExtractor"
READ_OF_SOUNDS = {WAVEFORM: ("sampling_rate", "do_normalize", "return_attention_mask"), LOG_MEL: ()}
FIXED_OF_SOUNDS: dict[str, dict[str, Any]] = {
    WAVEFORM: {"feature_size": 1, "padding_side": "right", "padding_value": 0.0},
    LOG_MEL: {
        "feature_size": 80,
        "hop_length": 160,
        "n_fft": 400,
        "sampling_rate": 16_000,
        "dither": 0.0,
        "padding_side": "right",
        "padding_value": 0.0,
    },
}
IDLE_OF_SOUNDS = {  # the window is the recipe's; filters are computed from the numbers above
    WAVEFORM: (),
    LOG_MEL: ("chunk_length", "n_samples", "nb_max_frames", "mel_filters", "return_attention_mask"),
}
COMPARED_INPUTS = 4
LEAST_WAVE_SAMPLES = 400  # of a sound that is compared: one frame
SAME = 1e-4  # by which values may differ: float32 in another order

Original = Callable[[Any], np.ndarray]


def refuse_unknown(settings: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """ExportError for a setting that is not known to be read here, or to change nothing, unless it is off."""
    for key, value in settings.items():
        if key not in known and value is not None and value is not False:
            fault = f"{PROCESSOR_FILE} sets {key} = {str(value)[:40]}, which is not built here"
            remedy = "remove it where it changes nothing of the input; else choose another model"
            raise ExportError(fault, where=where, remedy=remedy)


def refuse_setting(settings: Mapping[str, Any], key: str, only: str, where: str) -> ExportError:
    """The error for a value that is not built."""
    return ExportError(
        f"{PROCESSOR_FILE} sets {key} = {str(settings.get(key))[:60]}, only {only} is built", where=where
    )


def required_settings(source: str, where: Mapping[str, Any], spec: EncoderSpec) -> dict[str, Any]:
    """preprocessor_config.json; ExportError where it is missing: no default stands for what a model was trained on."""
    settings = checkpoint.read_json(source, PROCESSOR_FILE, where, spec)
    if not settings:
        lacks = f"lacks {PROCESSOR_FILE}" if settings is None else f"has an empty {PROCESSOR_FILE}"
        remedy = "copy it from the model's own folder"
        raise ExportError(f"{lacks}, which says how its inputs are made", where=spec.source, remedy=remedy)
    return settings


def picture_settings(source: str, where: Mapping[str, Any], spec: EncoderSpec) -> dict[str, Any]:
    """The settings of the model's own processor for pictures, with its own defaults; ExportError for one not built."""
    settings = required_settings(source, where, spec)
    own = picture_processor(source, where, spec)
    held = {**own.to_dict(), **{key: value for key, value in settings.items() if not hasattr(own, key)}}
    read = (*READ_OF_PICTURES, CROP_SHARE) if type(own).__name__.startswith("ConvNext") else READ_OF_PICTURES
    refuse_unknown(held, (*read, *IDLE_OF_PICTURES, *NAMES), spec.source)
    return {key: held[key] for key in read if key in held}


def picture_processor(source: str, where: Mapping[str, Any], spec: EncoderSpec) -> Any:
    """The model's own processor for pictures."""
    from transformers import AutoImageProcessor

    return _made(AutoImageProcessor, source, {**where, "use_fast": False}, spec)


def sound_settings(source: str, where: Mapping[str, Any], spec: EncoderSpec, kind: str) -> dict[str, Any]:
    """The settings of the model's own extractor, which must be of the class `kind`; ExportError for one not built."""
    settings = required_settings(source, where, spec)
    own = sound_extractor(source, where, spec)
    if type(own).__name__ != kind:
        named = {"feature_extractor_type": type(own).__name__}
        raise refuse_setting(named, "feature_extractor_type", kind, spec.source)
    held = {**own.to_dict(), **{key: value for key, value in settings.items() if not hasattr(own, key)}}
    _refuse_unbuilt_sound(held, kind, spec.source)
    return {key: held[key] for key in READ_OF_SOUNDS[kind]}


def untyped_settings(settings: Mapping[str, Any], spec: EncoderSpec) -> dict[str, Any]:
    """Settings that name no class of their processor, as they stand; ExportError for one not built."""
    if spec.modality == "image":
        refuse_unknown(settings, (*READ_OF_PICTURES, *IDLE_OF_PICTURES, *NAMES), spec.source)
        return dict(settings)
    _refuse_unbuilt_sound({**FIXED_OF_SOUNDS[WAVEFORM], **settings}, WAVEFORM, spec.source)
    return dict(settings)


def _refuse_unbuilt_sound(settings: Mapping[str, Any], kind: str, where: str) -> None:
    fixed = FIXED_OF_SOUNDS[kind]
    refuse_unknown(settings, (*fixed, *READ_OF_SOUNDS[kind], *IDLE_OF_SOUNDS[kind], *NAMES), where)
    for key, value in fixed.items():
        if settings.get(key) != value:
            raise refuse_setting(settings, key, str(value), where)


def sound_extractor(source: str, where: Mapping[str, Any], spec: EncoderSpec) -> Any:
    """The model's own feature extractor."""
    from transformers import AutoFeatureExtractor

    return _made(AutoFeatureExtractor, source, where, spec)


def _made(maker: Any, source: str, options: Mapping[str, Any], spec: EncoderSpec) -> Any:
    try:
        with quiet_torch():
            return maker.from_pretrained(source, **options)
    except Exception as problem:  # whatever a processor's own code raises at its settings
        fault = f"{PROCESSOR_FILE} makes no processor: {first_line(problem)}"
        raise ExportError(fault, where=spec.source, remedy="copy it from the model's own folder") from None


def is_typed(settings: Mapping[str, Any]) -> bool:
    """Whether settings name the class of their processor, which then gives what they leave out."""
    return any(settings.get(key) for key in NAMES[:2])


def hold(spec: EncoderSpec, modality: Modality, file: Callable[[str], Path], values: Sequence[Any]) -> None:
    """ExportError unless ours and the model's own processor make the same of some of the real inputs `values`."""
    original = _original(spec, modality)
    if original is None:
        return
    chosen = [values[i * len(values) // COMPARED_INPUTS] for i in range(COMPARED_INPUTS)]
    for value in chosen[: len(values)]:
        for ours, raw in _prepared(modality, value, file):
            theirs = original(raw)
            theirs = np.pad(theirs, [(0, max(0, n - m)) for n, m in zip(ours.shape, theirs.shape, strict=True)])
            apart = ours.shape != theirs.shape or not np.allclose(ours, theirs, rtol=0, atol=SAME, equal_nan=True)
            if apart:
                size = "another shape" if ours.shape != theirs.shape else f"{np.abs(ours - theirs).max():.3g} apart"
                fault = f"its own processor makes other values of a calibration sample than ours: {size}"
                remedy = "its settings are not built here: choose another model"
                raise ExportError(fault, where=spec.source, remedy=remedy)


def _prepared(modality: Modality, value: Any, file: Callable[[str], Path]) -> Iterator[tuple[np.ndarray, Any]]:
    """What ours make of a real input, and the input as the model's own processor takes it."""
    match modality.preprocess:
        case TextPreprocess() as made:
            plain = text.read(value, made.version)
            yield text.prepare(file(made.tokenizer), plain, modality.buckets[-1]).arrays[INPUT_IDS], plain
        case ImagePreprocess() as made:
            picture = image.decode_stored(value, made.version)
            for part in (picture, picture.crop((0, 0, picture.width, max(1, picture.height * 2 // 3)))):
                yield image.prepare(made, part, 1).arrays[PIXELS], part
        case AudioPreprocess() as made:
            plain_sound = msgspec.structs.replace(made, form="waveform", normalize=False, gain=1.0)
            wave = audio.prepare(plain_sound, *audio.decode_stored(value, made.version), 1).arrays[AUDIO]
            wave = wave[: max(LEAST_WAVE_SAMPLES, min(len(np.trim_zeros(wave, "b")), made.samples * 3 // 4))]
            whole = msgspec.structs.replace(made, version=1)
            yield audio.prepare(whole, wave, made.rate, 1).arrays[AUDIO], wave


def _original(spec: EncoderSpec, modality: Modality) -> Original | None:
    """The model's own processor as a function of one input; None where none stands beside it."""
    if spec.source.startswith("hf:"):
        source, where = hub_source.locate(spec)
    elif spec.source.startswith(("onnx:", "torch:")) and modality.name in ("image", "audio"):
        source, where = _folder(spec), {}
        if not is_typed(checkpoint.read_json(source, PROCESSOR_FILE, where, spec) or {}):
            return None
    else:
        return None
    if modality.name == "text":
        tokenizer, limit = checkpoint.fast_tokenizer(source, where, spec), modality.buckets[-1]
        return lambda raw: np.array(tokenizer(raw, truncation=True, max_length=limit)["input_ids"], np.int64)
    if modality.name == "image":
        processor = picture_processor(source, where, spec)
        return lambda raw: np.asarray(processor(raw)["pixel_values"][0])
    extractor, made = sound_extractor(source, where, spec), modality.preprocess
    assert isinstance(made, AudioPreprocess)
    if made.form == "whisper-mel":
        frames = made.samples // 160
        return lambda raw: np.asarray(extractor(raw, sampling_rate=made.rate)["input_features"][0])[:, :frames]
    return lambda raw: np.asarray(extractor(raw, sampling_rate=made.rate)["input_values"][0])


def _folder(spec: EncoderSpec) -> str:
    """The folder that an ONNX file, a module's file, or a module handed over has its settings in."""
    path = Path(spec.source.partition(":")[2].rpartition(".py:")[0] or spec.source.partition(":")[2])
    return str(path if path.is_dir() else path.resolve().parent)
