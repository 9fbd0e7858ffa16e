"""An encoder from an ONNX file of any maker (`onnx:<file>`): a trial run finds its taps.

What stands beside the file says how inputs are made, as Hugging Face's layout has it: tokenizer.json for texts,
preprocessor_config.json for pictures and sound.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import tokenizers
from onnx import TensorProto, helper

from homeroom.contract.graph_io import AUDIO, INPUT_IDS, PIXELS
from homeroom.contract.manifest import AudioPreprocess, ImagePreprocess, Preprocess, TextPreprocess
from homeroom.errors import BundleError, ExportError
from homeroom.runtime.external_data import external_locations
from homeroom.system.files import open_below
from homeroom_exporter.encoders import checkpoint, hub, processors, vision, wav2vec
from homeroom_exporter.encoders.checkpoint import PROCESSOR_FILE
from homeroom_exporter.encoders.hidden_states import first_line
from homeroom_exporter.encoders.minilm import TEXT_INPUTS, TOKENIZER, check_buckets, write_tokenizer
from homeroom_exporter.encoders.outside_files import TOKENIZER_LIMIT_BYTES, check_graph, read_settings, read_text
from homeroom_exporter.encoders.spec import Encoder, EncoderSpec, Scheme
from homeroom_exporter.quantize import graph_surgery

BLOCK_ENDS = ("Add", "LayerNormalization", "Relu", "Clip", "Concat")  # what ends a block or a stage
TRIAL_TOKENS = 7  # tokens of the trial run: a number that no width is likely to be
TOKENIZER_FILE = "tokenizer.json"

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ModelInputs:
    """How inputs are made by what stands beside a model, further files, and a trial input by its name in our graphs."""

    preprocess: Preprocess
    files: dict[str, Path]
    feeds: dict[str, np.ndarray]


def load(spec: EncoderSpec, scratch: Path) -> Encoder:
    """Taps are values of the graph by name, or `layer.<n>` counted through those that are found; `auto` is three."""
    path = Path(spec.source.removeprefix("onnx:"))
    model = read(path, spec)
    inputs = model_inputs(spec, path, scratch)
    return encoder_of_graph(spec, model, inputs, input_names(spec, model, inputs), path, path.stem, scratch)


def encoder_of_graph(
    spec: EncoderSpec,
    model: onnx.ModelProto,
    inputs: ModelInputs,
    names: Mapping[str, str],
    path: Path,
    title: str,
    scratch: Path,
) -> Encoder:
    """The encoder of a graph; names: its inputs by ours. path: what licence and configuration stand beside."""
    feeds = {name: inputs.feeds[ours] for name, ours in names.items()}
    candidates = tap_candidates(spec, model, feeds)
    if not candidates:
        remedy = "it is to hand on hidden states [batch, tokens, width] or maps [batch, channels, side, side]"
        raise ExportError("has no value that could be a tap", where=spec.source, remedy=remedy)
    chosen = choose_taps(spec, candidates)
    graph = graph_surgery.expose(model, {f"layer.{number}": name for number, name in chosen.items()})
    graph_surgery.name_inputs(
        graph, {name: (names[name], _dynamic(spec, value.shape)) for name, value in feeds.items()}
    )
    _refuse_unknown_ids(spec, graph, inputs)
    buckets = _pool_taps(spec, graph, {f"layer.{n}": candidates[name] for n, name in chosen.items()})
    licences, texts = hub.licence(str(path.resolve().parent), {}, scratch)
    scheme: Scheme = "static" if len(next(iter(candidates.values()))) == 4 else "dynamic"  # whether it convolves
    size = sum(int(np.prod(t.dims)) * 4 for t in model.graph.initializer if t.data_type == TensorProto.FLOAT)
    taps, files = tuple(f"layer.{number}" for number in chosen), {**texts, **inputs.files}
    return Encoder(title, graph, taps, buckets, inputs.preprocess, scheme, size, licences, files)


def read(path: Path, spec: EncoderSpec) -> onnx.ModelProto:
    """The model in the exporter's opset.

    ExportError where it cannot be read, has operators of a maker's own, or keeps data outside its folder.
    """
    check_graph(path, spec.source)
    checkpoint.refuse_pointer(path, spec)
    _refuse_data_outside(path, spec)
    try:
        model = onnx.load(path)
    except Exception as problem:  # onnx raises protobuf's own errors too
        raise ExportError(f"cannot be read as ONNX: {type(problem).__name__}", where=spec.source) from None
    if unknown := sorted({node.domain for node in model.graph.node if node.domain not in ("", "ai.onnx")}):
        node = next(node for node in model.graph.node if node.domain == unknown[0])
        fault = f"the node {node.name} is {node.op_type} of {unknown[0]}, which devices do not have"
        raise ExportError(fault, where=spec.source, remedy="export the model without a provider's optimizations")
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), None)
    if version is None:
        fault = "holds nothing" if not path.stat().st_size else "states no opset of ONNX, so it is no whole model"
        raise ExportError(fault, where=spec.source, remedy="cut short, or no ONNX file: copy or export it again")
    if version == graph_surgery.OPSET:
        return model
    try:
        return onnx.version_converter.convert_version(model, graph_surgery.OPSET)
    except Exception as problem:
        fault = f"opset {version} cannot be made {graph_surgery.OPSET}: {first_line(problem)}"
        raise ExportError(fault, where=spec.source, remedy=f"export it with opset {graph_surgery.OPSET}") from None


def _refuse_data_outside(path: Path, spec: EncoderSpec) -> None:
    """ExportError where a tensor's data is not in a file of the model's own folder, or is behind a link."""
    try:
        for location in external_locations(path, path.name):
            try:
                open_below(path.parent, location).close()
            except OSError as problem:
                fault = f"keeps a tensor in {location!r}: {problem.strerror}"
                remedy = "save the model with its data in a file beside it, and copy both without links"
                raise ExportError(fault, where=spec.source, remedy=remedy) from None
    except BundleError as problem:
        raise ExportError(problem.what, where=spec.source, remedy="cut short or damaged: copy it again") from None


def model_inputs(spec: EncoderSpec, path: Path, scratch: Path) -> ModelInputs:
    """What the files beside `path` say; ExportError for one that is missing."""
    if spec.modality == "text":
        check_buckets(spec, 1 << 24)
        text = _neighbour_text(path, TOKENIZER_FILE, spec)
        pad = tokenizers.Tokenizer.from_str(text).token_to_id("[PAD]") or 0
        ones = np.ones((1, TRIAL_TOKENS), np.int64)
        files = {TOKENIZER: write_tokenizer(text, scratch)}
        return ModelInputs(TextPreprocess(TOKENIZER, pad), files, {name: ones for name in TEXT_INPUTS})
    if spec.modality not in ("image", "audio"):
        raise ExportError("no such model encodes it", where=spec.modality, remedy='use "table" or "interactions"')
    settings = _processor_settings(path, spec)
    if spec.modality == "image":
        pixels: ImagePreprocess = vision.read_processor(settings, spec.source)
        return ModelInputs(pixels, {}, {PIXELS: np.zeros((1, 3, pixels.size, pixels.size), np.float32)})
    if settings.get("return_attention_mask") is True:
        raise processors.refuse_setting(settings, "return_attention_mask", "false", spec.source)
    rate = int(settings.get("sampling_rate", wav2vec.RATE))
    samples = round((spec.seconds or wav2vec.SECONDS) * rate)
    sound = AudioPreprocess(rate, samples, "waveform", normalize=bool(settings.get("do_normalize", False)))
    return ModelInputs(sound, {}, {AUDIO: np.zeros((1, samples), np.float32)})


def input_names(spec: EncoderSpec, model: onnx.ModelProto, inputs: ModelInputs) -> dict[str, str]:
    """Our names of the graph's inputs; ids of segments become zeros inside it."""
    stored = {tensor.name for tensor in model.graph.initializer}
    names = [value.name for value in model.graph.input if value.name not in stored]
    if spec.modality == "text":
        if "token_type_ids" in names:
            _zero_input(model, "token_type_ids", INPUT_IDS)
            names.remove("token_type_ids")
        if set(names) != inputs.feeds.keys():
            raise ExportError(f"reads {sorted(names)}, not {sorted(inputs.feeds)}", where=spec.source)
        return {name: name for name in names}
    if len(names) != 1:
        raise ExportError(f"reads {sorted(names)}, not one input", where=spec.source)
    return {names[0]: next(iter(inputs.feeds))}


def tap_candidates(spec: EncoderSpec, model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> dict[str, Shape]:
    """The values that blocks or stages hand on, in order, with their shapes in a trial run.

    Those are float values with a batch axis that end a residual sum or a normalisation and are read twice or more, or
    are results, of the commonest width; of texts and sound with as many tokens as a result; of maps the last one of
    each size.
    """
    readers = Counter(name for node in model.graph.node for name in set(node.input))
    results = {value.name for value in model.graph.output}
    names = [
        node.output[0]
        for node in model.graph.node
        if node.output[0] in results or (node.op_type in BLOCK_ENDS and readers[node.output[0]] > 1)
    ]
    if not names:
        return {}
    trial = copy.deepcopy(model)
    graph_surgery.set_fields(trial.graph, output=[onnx.ValueInfoProto(name=name) for name in names])  # some are counts
    for value in trial.graph.input:
        value.type.tensor_type.ClearField("shape")
    try:
        session = silent_session(trial)
        values = dict(zip(names, session.run(names, dict(feeds)), strict=True))
    except Exception as problem:
        raise ExportError(f"cannot be run: {str(problem).splitlines()[0]}", where="encoder") from None
    shapes = {
        name: value.shape for name, value in values.items() if value.dtype == np.float32 and value.shape[:1] == (1,)
    }
    maps = {name: shape for name, shape in shapes.items() if len(shape) == 4 and shape[2] == shape[3] > 1}
    flat = {name: shape for name, shape in shapes.items() if len(shape) == 3}
    counts = {shape[1] for name, shape in flat.items() if name in results}
    if spec.modality != "image" and counts:  # sound that is convolved is [batch, channels, frames] on its way
        flat = {name: shape for name, shape in flat.items() if shape[1] in counts}
    if flat:
        usual_shape, _ = Counter(flat.values()).most_common(1)[0]
        return {name: shape for name, shape in flat.items() if shape == usual_shape}
    last = {shape[2]: name for name, shape in maps.items()}
    return {name: maps[name] for name in maps if name in last.values()}


def _refuse_unknown_ids(spec: EncoderSpec, graph: onnx.ModelProto, inputs: ModelInputs) -> None:
    """ExportError where the graph has no row for the tokenizer's last id, or for the padding's."""
    if not isinstance(inputs.preprocess, TextPreprocess):
        return
    tokens = tokenizers.Tokenizer.from_file(str(inputs.files[TOKENIZER])).get_vocab()
    name, last = max(tokens.items(), key=lambda pair: pair[1])
    ids = np.where(inputs.feeds[INPUT_IDS] == 1, last, 0)
    ids[0, -1] = inputs.preprocess.pad_id
    try:
        silent_session(graph).run(None, {**inputs.feeds, INPUT_IDS: ids})
    except Exception as problem:
        fault = f"fails on its tokenizer's last id, {last} ({name!r}): {first_line(problem)}"
        raise ExportError(fault, where=spec.source, remedy="take tokenizer and model from one download") from None


def silent_session(model: onnx.ModelProto) -> Any:
    """onnxruntime's session of a model, which logs nothing."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def choose_taps(spec: EncoderSpec, candidates: dict[str, Shape]) -> dict[int, str]:
    """Numbers (from 1) and names of the taps; ExportError lists what there is."""
    names = list(candidates)
    if spec.every:
        return dict(enumerate(names, 1))
    if spec.taps == "auto":
        numbers = sorted({max(1, round(len(names) * part / 3)) for part in (1, 2, 3)})
        return {number: names[number - 1] for number in numbers}
    chosen = {}
    for tap in spec.taps:
        number = tap if isinstance(tap, int) else names.index(tap) + 1 if tap in names else 0
        if not 1 <= number <= len(names):
            listed = ", ".join(f"{i} {name}" for i, name in enumerate(names, 1))
            raise ExportError(f"has no tap {tap}", where=spec.source, remedy=f"one of {listed}")
        chosen[number] = names[number - 1]
    return chosen


def _pool_taps(spec: EncoderSpec, graph: onnx.ModelProto, shapes: dict[str, Shape]) -> tuple[int, ...]:
    if spec.modality == "text":
        return spec.buckets
    if spec.modality == "image":
        grid = spec.grid or vision.GRID
        for tap, shape in shapes.items():
            vision.pool(spec, graph, tap, shape, grid, None)
        return (graph_surgery.region_count(grid),)
    frames = min(shape[1] for shape in shapes.values())
    tokens = min(frames, max(1, round((spec.seconds or wav2vec.SECONDS) * wav2vec.TOKENS_A_SECOND)))
    for tap, shape in shapes.items():
        graph_surgery.pool_spans(graph, tap, shape[1], tokens)
    return (tokens,)


def _zero_input(model: onnx.ModelProto, name: str, like: str) -> None:
    """An input becomes zeros of another one's shape."""
    graph_surgery.set_fields(model.graph, input=[value for value in model.graph.input if value.name != name])
    model.graph.node.insert(0, helper.make_node("Sub", [like, like], [name], name=f"{graph_surgery.ADDED}{name}"))


def _dynamic(spec: EncoderSpec, shape: Shape) -> tuple[str | int, ...]:
    return ("batch", "tokens") if spec.modality == "text" else ("batch", *shape[1:])


def _neighbour_text(path: Path, name: str, spec: EncoderSpec) -> str:
    return read_text(_neighbour(path, name, spec), TOKENIZER_LIMIT_BYTES)


def _processor_settings(path: Path, spec: EncoderSpec) -> dict[str, Any]:
    """What preprocessor_config.json says: all of it where it names a class, else what stands in it."""
    settings = read_settings(_neighbour(path, PROCESSOR_FILE, spec), spec.source)
    checkpoint.refuse_authors_code(settings, PROCESSOR_FILE, spec)
    if not processors.is_typed(settings):
        return processors.untyped_settings(settings, spec)
    folder = str(path.resolve().parent)
    if spec.modality == "image":
        return processors.picture_settings(folder, {}, spec)
    return processors.sound_settings(folder, {}, spec, processors.WAVEFORM)


def _neighbour(path: Path, name: str, spec: EncoderSpec) -> Path:
    neighbour = path.with_name(name)
    if not neighbour.exists():
        raise ExportError(f"needs {name} beside it", where=spec.source, remedy="copy it from the model's own folder")
    checkpoint.refuse_pointer(neighbour, spec)
    return neighbour
