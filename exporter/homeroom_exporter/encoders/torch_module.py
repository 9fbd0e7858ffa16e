"""An encoder from a torch module of the engineer's own, traced and then treated as an ONNX file.

`torch:<file>:<factory>` runs that file in this process, as Python runs any, and calls the factory, which returns the
module with its weights. `torch:<folder>` is for a module that was handed over in Python (`export(…, modules=…)`).
"""

from __future__ import annotations

import copy
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tokenizers
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn import functional
from torch.utils import _pytree

from homeroom.contract.graph_io import ATTENTION_MASK, INPUT_IDS
from homeroom.contract.manifest import TextPreprocess
from homeroom.errors import ExportError
from homeroom_exporter.encoders import onnx_file
from homeroom_exporter.encoders.hidden_states import TORCH_FOLDER, quiet_torch, trace_error, traced_graph
from homeroom_exporter.encoders.onnx_file import TRIAL_TOKENS, ModelInputs
from homeroom_exporter.encoders.spec import Encoder, EncoderSpec

SCHEME = "torch:"
MODULE_PARITY = 1e-3  # by which the graph may differ from the module, relative to the largest value: docs/shapes.md's
SOURCE_REMEDY = 'source = "torch:FILE.py:FACTORY", or torch:FOLDER with export(…, modules=…)'


class FloatOutputs(torch.nn.Module):  # type: ignore[misc]
    """A module called as its forward wants it; gives every float tensor of its results."""

    def __init__(self, module: torch.nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.module, self.names = module, names
        self.named = len(names) > 1 and set(names) <= inspect.signature(module.forward).parameters.keys()

    def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Every float tensor of the module's results."""
        if len(values) > 1:  # attention over nothing is NaN: an empty text has its first token
            ids, mask = values
            values = ids, torch.cat([torch.ones_like(mask[:, :1]), mask[:, 1:]], 1)
        outputs = self.module(**dict(zip(self.names, values, strict=True))) if self.named else self.module(*values)
        return tuple(one for one in _pytree.tree_leaves(outputs) if torch.is_tensor(one) and one.is_floating_point())


def load(spec: EncoderSpec, scratch: Path) -> Encoder:
    """Taps are found as in an ONNX file, and what the module gives is among them; they are named `layer.<n>`.

    Raises ExportError where the module cannot be made or called, decides by values, or differs from its graph.
    """
    with _traceable():
        module, path, title = _given_module(spec) if spec.module is not None else _module_of_file(spec)
        inputs = onnx_file.model_inputs(spec, path, scratch)
        called = FloatOutputs(module, tuple(inputs.feeds)).eval()
        sizes = ((2, TRIAL_TOKENS), (1, spec.buckets[-1]), (3, 5))
        tries = [_random_inputs(spec, inputs, batch, tokens) for batch, tokens in sizes]
        expected = [_run_twice(spec, called, feeds) for feeds in tries]
        _refuse_branches(spec, called, tries[0])
        dynamic = {0: "batch", 1: "tokens"} if spec.modality == "text" else {0: "batch"}
        try:
            graph = traced_graph(called, tries[0], [f"result.{i}" for i in range(len(expected[0]))], dynamic)
        except ExportError as problem:
            raise _refusal(spec, problem.what, "write that part with other operations") from None
        _refuse_difference(spec, graph, tries, expected)
    return onnx_file.encoder_of_graph(spec, graph, inputs, {name: name for name in inputs.feeds}, path, title, scratch)


@contextmanager
def _traceable() -> Iterator[None]:
    """The same each time, and by operators that graphs have: torch's attention is fused where it evaluates."""
    fused = torch.backends.mha.get_fastpath_enabled()
    with torch.random.fork_rng(devices=[]), quiet_torch(), _patched(functional, **TRACEABLE):
        torch.manual_seed(0)  # of weights that a factory draws
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)


@contextmanager
def _patched(module: Any, **functions: Callable[..., Any]) -> Iterator[None]:
    before = {name: getattr(module, name) for name in functions}
    try:
        for name, function in functions.items():
            setattr(module, name, function)
        yield
    finally:
        for name, function in before.items():
            setattr(module, name, function)


def _separate_projections(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> list[torch.Tensor]:
    """Attention's three projections; of one product for all the tracer takes the number of tokens for fixed."""
    biases = [None] * 3 if bias is None else bias.chunk(3)
    return [functional.linear(x, w, b) for x, w, b in zip((q, k, v), weight.chunk(3), biases, strict=True)]


def _rms_norm(
    x: torch.Tensor, shape: list[int], weight: torch.Tensor | None = None, eps: float | None = None
) -> torch.Tensor:
    """Zhang and Sennrich 2019, of which opset 17 knows nothing."""
    axes = tuple(range(-len(shape), 0))
    normalised = x * torch.rsqrt((x * x).mean(axes, keepdim=True) + (torch.finfo(x.dtype).eps if eps is None else eps))
    return normalised if weight is None else normalised * weight


TRACEABLE: dict[str, Callable[..., Any]] = {"_in_projection_packed": _separate_projections, "rms_norm": _rms_norm}


def _given_module(spec: EncoderSpec) -> tuple[torch.nn.Module, Path, str]:
    """A copy of the module, in float32 and where it can be read; what stands in its folder."""
    folder = Path(spec.source.removeprefix(SCHEME))
    if not folder.is_dir():
        remedy = "name the one with the module's tokenizer.json or preprocessor_config.json"
        raise _refusal(spec, "is no folder", remedy)
    if not isinstance(spec.module, torch.nn.Module):
        raise _refusal(spec, f"was handed a {type(spec.module).__name__}, no torch.nn.Module", "hand over the module")
    module = copy.deepcopy(spec.module).to("cpu", torch.float32)
    return module, folder / "module", type(spec.module).__name__


def _module_of_file(spec: EncoderSpec) -> tuple[torch.nn.Module, Path, str]:
    """What the factory in the file that the recipe names returns, in float32."""
    file_name, _, name = spec.source.removeprefix(SCHEME).rpartition(":")
    path = Path(file_name)
    if not file_name or path.suffix != ".py":
        raise _refusal(spec, "names no file and factory", SOURCE_REMEDY)
    if not path.is_file():
        raise _refusal(spec, f"there is no file {path.name}", "give its path as seen from here")
    with _author_errors(spec, f"{path.name} cannot be run", path), _imported(path) as file:
        factory = getattr(file, name, None)
    if not callable(factory):
        defined = (key for key, value in vars(file).items() if getattr(value, "__module__", "") == file.__name__)
        raise _refusal(spec, f"{path.name} defines no {name}", f"it has {', '.join(sorted(defined)) or 'none'}")
    with _author_errors(spec, f"{name}() fails", path):
        module = factory()
    if not isinstance(module, torch.nn.Module):
        raise _refusal(spec, f"{name}() gives a {type(module).__name__}, no torch.nn.Module", "return the module")
    return module.to("cpu", torch.float32), path, f"{path.stem}.{name}"


@contextmanager
def _imported(path: Path) -> Iterator[Any]:
    """The module of a file, which may import its neighbours."""
    loader = importlib.util.spec_from_file_location(f"homeroom_own_{path.stem}", path)
    assert loader
    assert loader.loader
    file = importlib.util.module_from_spec(loader)
    sys.modules[file.__name__] = file  # data classes look themselves up there
    sys.path.insert(0, str(path.resolve().parent))
    try:
        loader.loader.exec_module(file)
        yield file
    finally:
        sys.path.remove(str(path.resolve().parent))


@contextmanager
def _author_errors(spec: EncoderSpec, what: str, path: Path | None = None) -> Iterator[None]:
    """Whatever the engineer's own code raises becomes one sentence with its line."""
    try:
        yield
    except (MemoryError, ExportError):
        raise
    except (Exception, SystemExit) as problem:
        name = type(problem).__name__
        message = trace_error(problem)
        description = name if message == name else f"{name}: {message}"
        raise _refusal(spec, f"{what}: {description}{_author_line(problem, path)}", "mend it there") from None


def _author_line(problem: BaseException, path: Path | None = None) -> str:
    """Where in the engineer's code it was raised: the innermost line that is not torch's or ours."""
    if isinstance(problem, SyntaxError):
        return f", line {problem.lineno}"
    library_folders = (TORCH_FOLDER, Path(__file__).parents[1])
    for frame in reversed(traceback.extract_tb(problem.__traceback__)):
        source = Path(frame.filename)
        if source.is_file() and not any(source.is_relative_to(folder) for folder in library_folders):
            return f", {source.name} line {frame.lineno}"
    return f", {path.name}" if path else ""


def _random_inputs(spec: EncoderSpec, inputs: ModelInputs, batch: int, tokens: int) -> dict[str, torch.Tensor]:
    """Random inputs as a device makes them: texts of several lengths, pictures and sound of the one size."""
    draw = np.random.default_rng(batch)
    if not isinstance(inputs.preprocess, TextPreprocess):
        ((name, one),) = inputs.feeds.items()
        return {name: torch.from_numpy(draw.standard_normal((batch, *one.shape[1:]), dtype=np.float32))}
    words = tokenizers.Tokenizer.from_file(str(inputs.files[inputs.preprocess.tokenizer])).get_vocab_size()
    mask = np.arange(tokens) < draw.integers(2, tokens + 1, (batch, 1))
    mask[0] = True
    ids = np.where(mask, draw.integers(0, words, mask.shape), inputs.preprocess.pad_id)
    return {INPUT_IDS: torch.from_numpy(ids), ATTENTION_MASK: torch.from_numpy(mask.astype(np.int64))}


def _run_twice(spec: EncoderSpec, called: FloatOutputs, feeds: Mapping[str, torch.Tensor]) -> list[np.ndarray]:
    shown = ", ".join(f"{name} {str(v.dtype).removeprefix('torch.')} {list(v.shape)}" for name, v in feeds.items())
    with _author_errors(spec, f"its forward fails on {shown}"):
        first, second = ([one.numpy() for one in called(*feeds.values())] for _ in range(2))
    if not first:
        raise _refusal(spec, "its forward gives no float tensor", "return the hidden states")
    if not all(np.array_equal(a, b, equal_nan=True) for a, b in zip(first, second, strict=True)):
        raise _refusal(spec, "its forward gives something else each time", "draw nothing at random where it evaluates")
    return first


def _refuse_branches(spec: EncoderSpec, called: FloatOutputs, feeds: Mapping[str, torch.Tensor]) -> None:
    """Tensors without values go through it: a tracer would take one branch for good, and say nothing.

    As if traced, since libraries such as transformers leave their own branches out then.
    """
    with _patched(torch.jit, is_tracing=lambda: True), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        try:
            called(*(mode.from_tensor(value) for value in feeds.values()))
        except DataDependentOutputException as problem:
            fault = f"its forward decides by a tensor's values{_author_line(problem)}, and a graph cannot"
            raise _refusal(spec, fault, "use torch.where or a mask in place of if and loops") from None
        except Exception:  # what has no such form is held against its graph all the same
            return


def _refuse_difference(
    spec: EncoderSpec, graph: onnx.ModelProto, tries: list[dict[str, torch.Tensor]], expected: list[list[np.ndarray]]
) -> None:
    """Refuses a graph whose results differ from the module's (`expected`) on any of the inputs tried."""
    try:
        session = onnx_file.silent_session(graph)
        read = {name for node in graph.graph.node for name in node.input}
        if lost := sorted(tries[0].keys() - read):
            raise _refusal(spec, f"its forward does not read {lost[0]}", "padding is to change nothing")
        results = [session.run(None, {name: value.numpy() for name, value in feeds.items()}) for feeds in tries]
        for feeds, actual, wanted in zip(tries, results, expected, strict=True):
            for one, other in zip(actual, wanted, strict=True):
                limit = MODULE_PARITY * max(1e-6, float(np.abs(other[np.isfinite(other)]).max(initial=0)))
                if one.shape != other.shape or not np.allclose(one, other, rtol=0, atol=limit, equal_nan=True):
                    sizes = [list(value.shape) for value in feeds.values()]
                    raise ValueError(f"other results than the module for inputs {sizes}")
    except ExportError:
        raise
    except Exception as problem:  # onnxruntime's own errors too
        remedy = "its forward may fix no batch or length that it was shown"
        raise _refusal(spec, f"as a graph it gives {trace_error(problem)}", remedy) from None


def _refusal(spec: EncoderSpec, what: str, remedy: str) -> ExportError:
    return ExportError(what, where=spec.source, remedy=remedy)
