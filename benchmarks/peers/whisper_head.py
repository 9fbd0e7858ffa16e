"""One process: the head of Flower's Whisper keyword example on spoken digits; torch and transformers.

As in that example (flower/examples/whisper-federated-finetuning): Whisper tiny's encoder, frozen, over windows of 30 s,
computed again in every epoch; on it Conv1d(1500, 128, 1), ReLU, Linear(128 * 384, classes); Adam, 1e-3, batches of 8.
The weights are tiny.en's, the same as the bundle's. Only the time up to the best validation epoch is counted, as if
the right number had been known.
"""

from __future__ import annotations

import argparse
import copy
import io
import sys
import time
from pathlib import Path

from peers import digits, measure

BATCH, RATE = 8, 1e-3


def main() -> None:
    clock = measure.Clock()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()

    import numpy as np
    import soundfile
    import soxr
    import torch
    from transformers import WhisperConfig, WhisperFeatureExtractor
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    from homeroom_exporter.encoders import packages
    from homeroom_exporter.encoders.ctranslate2 import read_container
    from homeroom_exporter.encoders.whisper import MODEL, encoder_state

    clock.mark("imports")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    values = read_container(packages.read(packages.WHISPER_TINY_EN, MODEL), packages.WHISPER_TINY_EN.file)
    config = WhisperConfig(
        d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536, num_mel_bins=80
    )
    encoder = WhisperEncoder(config)
    encoder.load_state_dict({name: torch.from_numpy(value) for name, value in encoder_state(values, 4).items()})
    encoder.requires_grad_(False).eval()
    head = torch.nn.Sequential(
        torch.nn.Conv1d(1500, 128, kernel_size=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(1),
        torch.nn.Linear(128 * 384, len(digits.WORDS)),
    )
    optimizer = torch.optim.Adam(head.parameters(), lr=RATE)
    extract = WhisperFeatureExtractor()

    def heard(clip: digits.Clip) -> torch.Tensor:
        wave, rate = soundfile.read(io.BytesIO(clip.data), dtype="float32")
        made = extract(soxr.resample(wave, rate, 16_000), sampling_rate=16_000, return_tensors="pt")
        return made.input_features[0]

    parts: dict[str, list[tuple[torch.Tensor, int]]] = {"train": [], "validation": [], "test": []}
    for clip in digits.clips(args.data):
        parts[clip.part].append((heard(clip), clip.digit))
    clock.mark("ready")

    def forward(rows: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            states = encoder(torch.stack([mel for mel, _ in rows])).last_hidden_state
        return head(states), torch.tensor([digit for _, digit in rows])

    @torch.no_grad()
    def accuracy(part: str) -> float:
        rows = parts[part]
        made = [forward(rows[at : at + 2 * BATCH]) for at in range(0, len(rows), 2 * BATCH)]
        return float(torch.cat([logits.argmax(1) == labels for logits, labels in made]).float().mean())

    best, best_state, best_s, history = -1.0, copy.deepcopy(head.state_dict()), time.monotonic(), []
    shuffle = np.random.default_rng(0)
    for epoch in range(1, args.epochs + 1):
        order = shuffle.permutation(len(parts["train"]))
        for at in range(0, len(order), BATCH):
            logits, labels = forward([parts["train"][i] for i in order[at : at + BATCH]])
            optimizer.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(logits, labels).backward()
            optimizer.step()
        history.append(accuracy("validation"))
        print(f"epoch {epoch}: validation accuracy {history[-1]:.3f}", file=sys.stderr)
        if history[-1] > best:
            best, best_state, best_s = history[-1], copy.deepcopy(head.state_dict()), time.monotonic()
    clock.started += time.monotonic() - best_s  # epochs after the best one
    head.load_state_dict(best_state)
    measure.write(
        args.out,
        clock,
        accuracy=accuracy("test"),
        validation=history,
        epochs=args.epochs,
        trainable=sum(p.numel() for p in head.parameters()),
    )


if __name__ == "__main__":
    main()
