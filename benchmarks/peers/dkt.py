"""Deep knowledge tracing (Piech et al. 2015): one LSTM over one-hot (skill, outcome) tokens, in torch."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from homeroom.data.tasks.metrics import auc

Steps = Sequence[tuple[int, bool]]  # skill's number, right
EPOCHS, PATIENCE, BATCH, RATE, CLIP = 40, 6, 32, 5e-3, 5.0


class Dkt(nn.Module):  # type: ignore[misc]
    """After a first token that says only "begin", each token is one interaction; a logit a skill after each."""

    def __init__(self, skills: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1 + 2 * skills, hidden, batch_first=True)
        self.out = nn.Linear(hidden, skills)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.out(self.lstm(tokens)[0])


def parameters(skills: int, hidden: int) -> int:
    return sum(p.numel() for p in Dkt(skills, hidden).parameters())


def hidden_of(skills: int, size: int) -> int:
    """The hidden width with which the model has nearest to `size` parameters."""
    return min(range(8, 257), key=lambda hidden: abs(parameters(skills, hidden) - size))


def tokens_of(histories: Sequence[Steps], skills: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [n, t, 1 + 2 skills], and targets [n, t, skills] of 1, -1 and, where nothing is asked, 0."""
    length = max(map(len, histories))
    tokens = torch.zeros(len(histories), length, 1 + 2 * skills)
    targets = torch.zeros(len(histories), length, skills)
    tokens[:, 0, 0] = 1.0
    for row, steps in enumerate(histories):
        for place, (skill, right) in enumerate(steps):
            targets[row, place, skill] = 1.0 if right else -1.0
            if place + 1 < length:
                tokens[row, place + 1, 1 + 2 * skill + right] = 1.0
    return tokens, targets


def predicted(model: Dkt, histories: Sequence[Steps], skills: int) -> tuple[np.ndarray, np.ndarray]:
    """Truth bool [n] and logits [n] of every interaction."""
    tokens, targets = tokens_of(histories, skills)
    with torch.no_grad():
        logits = torch.cat([model(tokens[i : i + 256]) for i in range(0, len(tokens), 256)])
    asked = targets != 0
    return (targets[asked] > 0).numpy(), logits[asked].numpy()


def train(
    histories: Sequence[Steps], validation: Sequence[Steps], skills: int, hidden: int, seed: int, epochs: int = EPOCHS
) -> Dkt:
    """Adam with clipped gradients, over length-sorted batches; the epoch with the best validation AUC."""
    torch.manual_seed(seed)
    model = Dkt(skills, hidden)
    optimiser = torch.optim.Adam(model.parameters(), RATE)
    order = sorted(range(len(histories)), key=lambda i: len(histories[i]))
    batches = [tokens_of([histories[i] for i in order[b : b + BATCH]], skills) for b in range(0, len(order), BATCH)]
    best, best_epoch, kept = -1.0, 0, copy.deepcopy(model.state_dict())
    for epoch in range(epochs):
        for number in torch.randperm(len(batches)).tolist():
            tokens, targets = batches[number]
            asked = targets != 0
            logits = model(tokens)[asked]
            loss = nn.functional.binary_cross_entropy_with_logits(logits, (targets[asked] > 0).float())
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimiser.step()
        found = auc(*predicted(model, validation, skills)) or 0.0
        if found > best:
            best, best_epoch, kept = found, epoch, copy.deepcopy(model.state_dict())
        if epoch - best_epoch >= PATIENCE:
            break
    model.load_state_dict(kept)
    return model
