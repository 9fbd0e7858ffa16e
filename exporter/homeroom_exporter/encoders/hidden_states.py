"""Hidden states of a transformers model as an ONNX graph, through optimum's or torch's exporter."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch

from homeroom.errors import ExportError
from homeroom_exporter.encoders.spec import EncoderSpec
from homeroom_exporter.quantize.graph_surgery import OPSET, expose, name_inputs

TORCH_FOLDER = Path(torch.__file__).parent


def chosen_layers(spec: EncoderSpec, count: int) -> tuple[int, ...]:
    """The layers that a recipe chose, 1 to `count` (0: the embeddings); `auto` is three, evenly spread."""
    if spec.every:
        return tuple(range(1, count + 1))
    if spec.taps == "auto":
        return tuple(sorted({max(1, round(count * part / 3)) for part in (1, 2, 3)}))
    numbers = []
    for tap in spec.taps:
        number = tap if isinstance(tap, int) else int(tap.removeprefix("layer.")) if tap[-1:].isdigit() else -1
        if not 0 <= number <= count:
            remedy = f"name layers 1 to {count}, 0 for the embeddings"
            raise ExportError(f"has no layer {tap}", where=spec.source, remedy=remedy)
        numbers.append(number)
    return tuple(numbers)


def optimum_graph(
    model: Any, chosen: Sequence[int], inputs: Mapping[str, tuple[str, Sequence[str | int]]], count: int
) -> onnx.ModelProto:
    """The graph from the model's inputs to the hidden states after the chosen layers, named `layer.<n>`.

    The last is taken after the model's final normalisation where it has one.
    inputs: the model's input -> (its name in our graph, its shape); the model's other inputs keep their defaults.
    """
    from optimum.exporters.onnx.convert import export_pytorch
    from optimum.exporters.tasks import TasksManager

    states = [f"hidden_states.{i}" for i in range(count + 1)]
    with quiet_torch():
        apart = _normalised_apart(model, inputs)
        base = TasksManager.get_exporter_config_constructor(
            exporter="onnx", model_type=model.config.model_type, task="feature-extraction", library_name="transformers"
        ).func

        class Taps(base):  # type: ignore[misc, valid-type]
            @property
            def inputs(self) -> dict[str, dict[int, str]]:
                dynamic = {name: _dynamic_axes(shape) for name, (_, shape) in inputs.items()}
                return {name: axes for name, axes in super().inputs.items() if name in dynamic} | dynamic

            @property
            def outputs(self) -> dict[str, dict[int, str]]:
                return {name: {0: "batch"} for name in [*["last_hidden_state"] * apart, *states]}

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            with captured_stdout():
                export_pytorch(
                    model.eval(),
                    Taps(model.config, task="feature-extraction"),
                    OPSET,
                    path,
                    model_kwargs={"output_hidden_states": True},
                )
            graph = onnx.load(path)
    names = [*states[:-1], "last_hidden_state" if apart else states[-1]]
    graph = expose(graph, {f"layer.{i}": names[i] for i in chosen})
    name_inputs(graph, inputs)
    return graph


def _normalised_apart(model: Any, inputs: Mapping[str, Any]) -> bool:
    """Whether what a model hands on is not its last hidden state: ModernBERT normalises it once more."""
    outputs = model.eval()(**{name: torch.ones(1, 3, dtype=torch.int64) for name in inputs}, output_hidden_states=True)
    return not torch.equal(last_state(outputs), outputs.hidden_states[-1])


class HiddenStates(torch.nn.Module):  # type: ignore[misc]
    """A model's hidden states after the chosen layers, the last one after its final normalisation, as a module."""

    def __init__(self, model: Any, chosen: Sequence[int]) -> None:
        super().__init__()
        self.model, self.chosen = model, tuple(chosen)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """float32 [batch, tokens, width] of each chosen layer."""
        outputs = self.model(*inputs, output_hidden_states=True)
        states = [*outputs.hidden_states[:-1], last_state(outputs)]
        return tuple(states[i] for i in self.chosen)


def last_state(outputs: Any) -> torch.Tensor:
    """What a model hands on; the last hidden state where that has another form."""
    state, final = outputs.hidden_states[-1], outputs.last_hidden_state
    return final if final.shape == state.shape else state


def layers_graph(
    module: Any, example: torch.Tensor, inputs: Mapping[str, tuple[str, Sequence[str | int]]]
) -> onnx.ModelProto:
    """As `optimum_graph`, of a module that gives the states after the layers `chosen`; example: of every input."""
    layers = {f"layer.{i}": f"hidden.{i}" for i in module.chosen}
    dynamic = _dynamic_axes(next(iter(inputs.values()))[1])
    graph = expose(traced_graph(module, dict.fromkeys(inputs, example), list(layers.values()), dynamic), layers)
    name_inputs(graph, inputs)
    return graph


def traced_graph(
    module: Any, examples: Mapping[str, torch.Tensor], outputs: Sequence[str], dynamic: Mapping[int, str]
) -> onnx.ModelProto:
    """The graph of a module of inputs by name, all dynamic in the axes given; its outputs get the names given.

    ExportError names an unknown operator.
    """
    with quiet_torch(), tempfile.TemporaryDirectory() as folder, captured_stdout() as captured:
        path = Path(folder) / "model.onnx"
        try:
            torch.onnx.export(
                module.eval(),
                tuple(examples.values()),
                path,
                input_names=list(examples),
                output_names=list(outputs),
                dynamic_axes={value: dict(dynamic) for value in (*examples, *outputs)},
                opset_version=OPSET,
                dynamo=False,
            )
        except MemoryError:
            raise
        except Exception as problem:  # the tracer raises whatever it or the model's own code does
            fault = f"cannot become a graph: {trace_error(problem, captured())}"
            remedy = "choose a model of a shape that docs/shapes.md lists"
            raise ExportError(fault, where=type(getattr(module, "model", module)).__name__, remedy=remedy) from None
        return onnx.load(path)


def first_line(problem: BaseException) -> str:
    """The first line of an error that is not empty, else its type."""
    return next((line for line in str(problem).splitlines() if line.strip()), type(problem).__name__).strip()


def trace_error(problem: BaseException, output: str = "") -> str:
    """One line of what was raised; said: the tracer's graph, which has the module and the line of an operator."""
    text = re.split(r"\. Please|  \[Caused", str(problem))[0].strip()
    line = next(iter(text.splitlines()), type(problem).__name__)
    operator = re.search(r"operator '?(?:aten::)?(\w+)", line)
    node = operator and re.search(rf"= aten::{operator[1]}\(.*?scope: ([^#\n]*)(?:# (.+):(\d+):)?", output)
    if not node:
        return line
    inner = node[1].strip().rpartition("::")[2]
    author_code = node[2] and not Path(node[2]).is_relative_to(TORCH_FOLDER)
    details = [f"module {inner}"] * bool(inner) + [f"{Path(node[2]).name} line {node[3]}"] * bool(author_code)
    return f"{line}: {', '.join(details)}" if details else line


@contextlib.contextmanager
def captured_stdout() -> Iterator[Callable[[], str]]:
    """Catch file descriptor 1: torch's tracer prints its whole graph there where an operator is unknown to it."""
    sys.stdout.flush()
    with tempfile.TemporaryFile() as file:

        def captured() -> str:
            file.seek(0)
            return file.read().decode(errors="replace")

        duplicate = os.dup(1)
        os.dup2(file.fileno(), 1)
        try:
            yield captured
        finally:
            os.dup2(duplicate, 1)
            os.close(duplicate)


def float_bytes(model: Any) -> int:
    """The size of a module's weights in float32."""
    return sum(p.numel() * 4 for p in model.parameters())


def _dynamic_axes(shape: Sequence[str | int]) -> dict[int, str]:
    return {axis: size for axis, size in enumerate(shape) if isinstance(size, str)}


@contextlib.contextmanager
def quiet_torch() -> Iterator[None]:
    """The tracer's warnings speak of branches that these models take the same way for every input."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # folded constants then do not depend on the machine's cores
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
        torch.set_num_threads(threads)
