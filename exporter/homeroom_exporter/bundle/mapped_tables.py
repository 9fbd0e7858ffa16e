"""Large constants of a backbone in a file beside its graph: a runtime maps that file, and reads only the rows in use.

A table of 128,010 rows takes 65 MB of memory inside a graph, twice while the graph is loaded.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
from onnx import TensorProto

from homeroom.runtime.external_data import bytes_with_external_data
from homeroom_exporter.model.lora.frozen_weights import ALIGNED
from homeroom_exporter.quantize.graph_surgery import canonical_bytes

LEAST_BYTES = 16 << 20
SUFFIX = ".bin"


def place(source: Path, target: Path) -> None:
    """Copies a graph to `target`, and its constants of at least 16 MiB to a file of the same name that ends in .bin.

    source: may keep constants beside it too. What the graph computes is the same, bit for bit.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if bytes_with_external_data(source, source.name) < LEAST_BYTES:
        shutil.copyfile(source, target)
        return
    model, beside = onnx.load(source), target.with_suffix(SUFFIX)
    large = [tensor for tensor in model.graph.initializer if len(tensor.raw_data) >= LEAST_BYTES]
    if large:
        with beside.open("wb") as file:
            for tensor in large:
                file.write(bytes(-file.tell() % ALIGNED))
                place_of = {"location": beside.name, "offset": file.tell(), "length": file.write(tensor.raw_data)}
                tensor.ClearField("raw_data")
                tensor.data_location = TensorProto.EXTERNAL
                for key, said in place_of.items():
                    tensor.external_data.add(key=key, value=str(said))
    target.write_bytes(canonical_bytes(model))
