"""The golden samples of a bundle, wherever the SDK runs: what a device asks before it takes an int8 backbone.

`python golden_child.py BUNDLE` prints a line of JSON for each modality's lowest precision, as
`homeroom.inference.golden.Drift`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from homeroom.inference.golden import drift
from homeroom.runtime.bundle import open_bundle
from homeroom.runtime.graphs import Graphs, precisions


def main(folder: str) -> None:
    bundle = open_bundle(Path(folder), root=None)
    for modality in bundle.manifest.modalities:
        precision = precisions(bundle, modality.name, "onnx")[0]
        graphs = Graphs(bundle, {modality.name: precision}, threads=1)
        print(json.dumps(asdict(drift(bundle, graphs, modality.name))))


if __name__ == "__main__":
    main(*sys.argv[1:])
