"""Table rows and clickstream counts: the standardised row itself, as int8 with a fixed step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from homeroom.contract.graph_io import TABLE_ROW
from homeroom.contract.manifest import TablePreprocess
from homeroom.errors import ExportError
from homeroom_exporter.encoders.spec import Encoder, EncoderSpec
from homeroom_exporter.quantize.compress import INT8_LIMIT, finish
from homeroom_exporter.quantize.graph_surgery import OPSET, as_model, constant, extend

LARGEST_VALUE = 8.0  # to which preprocessing clips a standardised value


def load(spec: EncoderSpec, scratch: Path) -> Encoder:
    """One tap, `row`, of one token, as wide as the row; there is nothing to compress, and nothing to quantize."""
    if not spec.columns:
        raise ExportError("names no column", where="columns", remedy="name the numeric and categorical columns")
    preprocess = TablePreprocess(spec.columns)
    width = preprocess.width
    values = [helper.make_tensor_value_info(TABLE_ROW, TensorProto.FLOAT, ["batch", width])]
    model = as_model(helper.make_graph([], "features", values, []), [helper.make_opsetid("", OPSET)])
    unit = constant(model, "units", np.array(INT8_LIMIT / LARGEST_VALUE, np.float32))
    units = extend(model, "Mul", [TABLE_ROW, unit], "units.row")
    shape = constant(model, "shape", np.array([-1, 1, 1, width], np.int64))
    finish(model, extend(model, "Reshape", [units, shape], "tokens"), ["batch", 1, 1, width])
    scale = np.full((1, width), LARGEST_VALUE / INT8_LIMIT, np.float32)
    return Encoder("standardised row", model, ("row",), (1,), preprocess, "none", float_bytes=0, scale=scale)
