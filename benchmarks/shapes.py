"""Table of model shapes that become backbones, made by exporting a small random model of each.

    python benchmarks/shapes.py                    every shape, as Markdown (some minutes)
    python benchmarks/shapes.py --only bert,vit --json shapes.json

A shape exports if its graph runs in onnxruntime and agrees with transformers in float32, within 1e-3 of the largest
value; the others are shown with the error message that a user gets.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from homeroom.errors import HomeroomError
from homeroom_exporter.encoders import load
from homeroom_exporter.encoders.checkpoint import ENCODERS
from homeroom_exporter.encoders.hidden_states import last_state, quiet_torch
from homeroom_exporter.encoders.hub import encoder_side
from homeroom_exporter.encoders.spec import Encoder, EncoderSpec

LIMIT = 1e-3
BLOCKS = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
TEXT = {**BLOCKS, "vocab_size": 300, "max_position_embeddings": 40, "pad_token_id": 0}
PICTURE = {**BLOCKS, "image_size": 32, "patch_size": 8}
SOUND = {
    **BLOCKS,
    "conv_dim": (16, 16),
    "conv_kernel": (10, 8),
    "conv_stride": (10, 8),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
STAGES = {"embedding_size": 16, "hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1], "layer_type": "basic"}
PARTS = {"d_kv": 16, "num_heads": 2, "pad_token_id": 0, "decoder_start_token_id": 0}
T5 = {**PARTS, "d_model": 32, "d_ff": 64, "num_layers": 3, "num_decoder_layers": 1, "vocab_size": 300}
MASKED = {"decoder_hidden_size": 32, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
BLOCK = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
BLOCK |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "vocab_size": 300}
DUAL = {"text_config": {**TEXT, "eos_token_id": 3}, "vision_config": PICTURE, "projection_dim": 16}
SHAPES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("text", "bert", TEXT),
    ("text", "distilbert", {"dim": 32, "n_layers": 3, "n_heads": 2, "hidden_dim": 64, "vocab_size": 300}),
    ("text", "roberta", TEXT),
    ("text", "xlm-roberta", TEXT),
    ("text", "camembert", TEXT),
    ("text", "electra", {**TEXT, "embedding_size": 32}),
    ("text", "albert", {**TEXT, "embedding_size": 32}),
    ("text", "mpnet", TEXT),
    ("text", "deberta-v2", TEXT),
    ("text", "modernbert", {**TEXT, "global_attn_every_n_layers": 2, "local_attention": 8}),
    ("text", "t5", T5),
    ("text", "mt5", T5),
    ("text", "clip", DUAL),
    ("text", "bart", {**BLOCK, "max_position_embeddings": 40}),
    ("text", "longformer", {**TEXT, "attention_window": 8}),
    ("text", "xlnet", {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64, "vocab_size": 300}),
    ("image", "vit", PICTURE),
    ("image", "deit", PICTURE),
    ("image", "dinov2", {**PICTURE, "mlp_ratio": 2}),
    ("image", "dinov2_with_registers", {**PICTURE, "mlp_ratio": 2}),
    ("image", "beit", PICTURE),
    (
        "image",
        "swin",
        {"image_size": 64, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
    ),
    ("image", "resnet", {**STAGES, "image_size": 64}),
    ("image", "convnext", {"hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1], "image_size": 64}),
    ("image", "clip", DUAL),
    ("image", "siglip", DUAL),
    ("image", "vit_mae", {**PICTURE, **MASKED}),
    ("audio", "wav2vec2", {**SOUND, "feat_extract_norm": "group"}),
    ("audio", "hubert", {**SOUND, "feat_extract_norm": "group"}),
    ("audio", "wavlm", {**SOUND, "feat_extract_norm": "group"}),
    ("audio", "wav2vec2", {**SOUND, "feat_extract_norm": "layer"}),
    ("audio", "data2vec-audio", SOUND),
    ("audio", "audio-spectrogram-transformer", BLOCKS),
)


def tokenizer(folder: Path) -> None:
    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghij"])}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)


def processor(folder: Path, kind: str, settings: dict[str, Any]) -> None:
    """preprocessor_config.json as a model's own folder has it."""
    size = settings.get("image_size", 32)
    square = {"height": size, "width": size}
    said: dict[str, Any] = {"image_processor_type": "ViTImageProcessor", "size": square}
    if kind in ("resnet", "convnext"):
        said = {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": size}, "crop_pct": 0.875}
    elif kind == "clip":
        said = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": size}, "crop_size": square}
    elif "conv_dim" in settings:
        masked = settings.get("feat_extract_norm") != "group"
        said = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16_000, "do_normalize": True}
        said["return_attention_mask"] = masked
    (folder / "preprocessor_config.json").write_text(json.dumps(said))


def write_model(folder: Path, kind: str, settings: dict[str, Any]) -> None:
    """A small random model as a Hugging Face directory."""
    torch.manual_seed(0)
    with quiet_torch():
        AutoModel.from_config(AutoConfig.for_model(kind, **settings)).save_pretrained(folder)
    tokenizer(folder)
    processor(folder, kind, settings)


def original(folder: Path, spec: EncoderSpec) -> Any:
    """The encoder in transformers."""
    kind = ENCODERS.get(AutoConfig.from_pretrained(folder).model_type, "AutoModel")
    model = getattr(transformers, kind).from_pretrained(folder, attn_implementation="eager", use_safetensors=True)
    return encoder_side(model.eval(), spec)


def first_token(spec: EncoderSpec, model: Any, values: dict[str, Any], layer: int, tokens: int) -> np.ndarray:
    """What the first of our `tokens` tokens of a layer should be, by the model in transformers: [batch, width]."""
    with torch.no_grad(), quiet_torch():
        outputs = model(**values, output_hidden_states=True)
    state = [*outputs.hidden_states[:-1], last_state(outputs)][layer].numpy()
    if spec.modality == "audio":
        return np.asarray(state[:, : -(-state.shape[1] // tokens)].mean(1))
    if spec.modality == "image":
        flat = state.reshape(*state.shape[:2], -1).swapaxes(1, 2) if state.ndim == 4 else state
        square = float(np.sqrt(flat.shape[1])).is_integer()
        return np.asarray(flat.mean(1) if square else flat[:, 0])
    return np.asarray(state[:, 0])


def apart(got: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference over the largest value."""
    return float(np.abs(got - wanted).max() / max(1.0, float(np.abs(wanted).max())))


def difference(encoder: Encoder, spec: EncoderSpec, folder: Path) -> float:
    """Largest difference of the first token of the last tap from the model's own, over its largest value."""
    draw = np.random.default_rng(0)
    if spec.modality == "text":
        feeds = {"input_ids": draw.integers(4, 14, (2, 9)), "attention_mask": np.ones((2, 9), np.int64)}
        values = {name: torch.from_numpy(value) for name, value in feeds.items()}
    else:
        (given,) = encoder.graph.graph.input
        sizes = [d.dim_value or 2 for d in given.type.tensor_type.shape.dim]
        feeds = {given.name: draw.standard_normal(sizes).astype(np.float32)}
        values = {"pixel_values" if spec.modality == "image" else "input_values": torch.from_numpy(feeds[given.name])}
    session = onnxruntime.InferenceSession(encoder.graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (got,) = session.run([encoder.taps[-1]], feeds)
    layer = int(encoder.taps[-1].removeprefix("layer."))
    return apart(got[:, 0], first_token(spec, original(folder, spec), values, layer, got.shape[1]))


def tried(modality: str, kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    """One row: what came of a small random model."""
    row: dict[str, Any] = {"modality": modality, "shape": kind, "exports": False}
    if settings.get("feat_extract_norm") == "layer":
        row["shape"] = f"{kind}, normalised by layer"
    with tempfile.TemporaryDirectory() as name:
        folder, scratch = Path(name) / "model", Path(name) / "scratch"
        scratch.mkdir()
        write_model(folder, kind, settings)
        spec = EncoderSpec(modality=modality, source=f"hf:{folder}", buckets=(8, 16), seconds=0.5)  # type: ignore[arg-type]
        try:
            encoder = load(spec, scratch)
            error = difference(encoder, spec, folder)
        except HomeroomError as problem:
            return {**row, "says": problem.what}
        except Exception as problem:  # a shape that nobody thought of: a figure too
            return {**row, "says": f"{type(problem).__name__}: {next(iter(str(problem).splitlines()), '')[:90]}"}
    return {**row, "exports": error <= LIMIT, "taps": len(encoder.taps), "difference": error, "says": ""}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", help="shapes, with commas between them")
    args = parser.parse_args()
    wanted = args.only.split(",") if args.only else None
    rows = []
    print("| modality | shape | exports | difference from transformers | |\n|---|---|---|---|---|")
    for modality, kind, settings in SHAPES:
        if wanted is None or kind in wanted:
            row = tried(modality, kind, settings)
            rows.append(row)
            error = f"{row['difference']:.0e}" if "difference" in row else "-"
            print(
                f"| {modality} | {row['shape']} | {'yes' if row['exports'] else 'no'} | {error} | {row['says']} |",
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "targets": []}, indent=1) + "\n")


if __name__ == "__main__":
    main()
