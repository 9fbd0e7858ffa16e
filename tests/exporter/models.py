"""Small random models in the shapes of well-known ones, saved as Hugging Face directories; transformers."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    BitImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    ConvNextImageProcessor,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DistilBertConfig,
    DistilBertModel,
    HubertConfig,
    HubertModel,
    PreTrainedTokenizerFast,
    ResNetConfig,
    ResNetModel,
    RobertaConfig,
    RobertaModel,
    SiglipConfig,
    SiglipModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

WORDS = ("the", "a", "cat", "dog", "bird", "sees", "likes", "is", "big", "small", "red", "blue", "green", "and", "not")


def write_tokenizer(folder: Path) -> None:
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)


def bert(folder: Path) -> Path:
    torch.manual_seed(1)
    write_tokenizer(folder)
    config = BertConfig(
        vocab_size=300,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A tiny model\n")
    (folder / "LICENSE").write_text("MIT License\n")
    return folder


def distilbert(folder: Path) -> Path:
    torch.manual_seed(7)
    write_tokenizer(folder)
    config = DistilBertConfig(vocab_size=300, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=32)
    DistilBertModel(config).save_pretrained(folder)
    return folder


def roberta(folder: Path) -> Path:
    torch.manual_seed(8)
    write_tokenizer(folder)
    config = RobertaConfig(
        vocab_size=300,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=34,
        type_vocab_size=1,
        pad_token_id=0,
    )
    RobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def vit(folder: Path) -> Path:
    torch.manual_seed(2)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8
    )
    ViTModel(config).save_pretrained(folder)
    processor = ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.4] * 3, image_std=[0.3] * 3)
    processor.save_pretrained(folder)
    return folder


def whisper(folder: Path) -> Path:
    torch.manual_seed(3)
    config = WhisperConfig(
        d_model=32,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        vocab_size=100,
        max_source_positions=100,
        max_target_positions=8,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    WhisperModel(config).save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    return folder


DINO = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "mlp_ratio": 2, "patch_size": 8}


def dinov2(folder: Path) -> Path:
    return _dino(folder, Dinov2Model, Dinov2Config)


def dinov2_registers(folder: Path) -> Path:
    return _dino(folder, Dinov2WithRegistersModel, Dinov2WithRegistersConfig)


def siglip(folder: Path) -> Path:
    """Both sides; the one for pictures has no class token."""
    torch.manual_seed(12)
    part = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = SiglipConfig(vision_config={**part, "image_size": 32, "patch_size": 8}, text_config=part)
    SiglipModel(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def _dino(folder: Path, model: Any, config: Any) -> Path:
    """Trained on larger pictures (config) than its processor makes, as the published ones are."""
    torch.manual_seed(9)
    model(config(**DINO, image_size=56)).save_pretrained(folder)
    processor = BitImageProcessor(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(folder)
    return folder


def resnet(folder: Path) -> Path:
    torch.manual_seed(10)
    config = ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 24, 32, 40], depths=[1, 1, 1, 1], layer_type="basic", hidden_act="relu"
    )
    model = ResNetModel(config)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # else random maps die out
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    model.save_pretrained(folder)
    ConvNextImageProcessor(size={"shortest_edge": 64}, resample=3).save_pretrained(folder)
    return folder


def clip(folder: Path) -> Path:
    torch.manual_seed(11)
    write_tokenizer(folder)
    part = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**part, "vocab_size": 300, "max_position_embeddings": 32, "pad_token_id": 0, "eos_token_id": 3},
        vision_config={**part, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


SOUND = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 8, 4),
    "conv_stride": (8, 8, 5),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "num_feat_extract_layers": 3,
}


def wav2vec2(folder: Path, norm: str = "group") -> Path:
    torch.manual_seed(12)
    Wav2Vec2Model(Wav2Vec2Config(**SOUND, feat_extract_norm=norm)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=norm == "layer").save_pretrained(folder)
    return folder


def wav2vec2_by_layer(folder: Path) -> Path:
    """Normalised by layer, as the large sizes are: these are given a mask beside clips of several lengths."""
    return wav2vec2(folder, "layer")


def hubert(folder: Path) -> Path:
    torch.manual_seed(13)
    HubertModel(HubertConfig(**SOUND)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False).save_pretrained(folder)
    return folder


def onnx_text(folder: Path) -> Path:
    """An ONNX file as another tool makes it: a BERT with its three inputs and one result, opset 14."""
    torch.manual_seed(14)
    write_tokenizer(folder)
    config = BertConfig(
        vocab_size=300,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    config._attn_implementation = "eager"
    names = ["input_ids", "attention_mask", "token_type_ids"]
    values = torch.ones(2, 5, dtype=torch.int64)
    torch.onnx.export(
        BertModel(config, add_pooling_layer=False).eval(),
        (values, values, values * 0),
        folder / "model.onnx",
        input_names=names,
        output_names=["last_hidden_state"],
        dynamic_axes={name: {0: "b", 1: "n"} for name in [*names, "last_hidden_state"]},
        opset_version=14,
        dynamo=False,
    )
    return folder / "model.onnx"


def texts(count: int = 60) -> list[str]:
    draw = np.random.default_rng(4)
    return [" ".join(draw.choice(WORDS, draw.integers(1, 9))) for _ in range(count)]


def pictures(count: int = 20) -> list[bytes]:
    draw = np.random.default_rng(5)
    found = []
    for _ in range(count):
        buffer = io.BytesIO()
        small = Image.fromarray(draw.integers(0, 255, (4, 5, 3), np.uint8))
        small.resize((50, 40)).save(buffer, "PNG")
        found.append(buffer.getvalue())
    return found


def sounds(count: int = 12, seconds: float = 0.7) -> list[bytes]:
    draw = np.random.default_rng(6)
    found = []
    for _ in range(count):
        time = np.arange(int(16_000 * seconds)) / 16_000
        wave = 0.3 * np.sin(2 * np.pi * draw.uniform(200, 2000) * time) + 0.05 * draw.standard_normal(len(time))
        buffer = io.BytesIO()
        soundfile.write(buffer, wave.astype(np.float32), 16_000, format="WAV")
        found.append(buffer.getvalue())
    return found
