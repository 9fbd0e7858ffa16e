"""Small random models in the shapes of BERT, ViT and Whisper, saved as Hugging Face directories; transformers."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import soundfile
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
    WhisperConfig,
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
    return folder


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
