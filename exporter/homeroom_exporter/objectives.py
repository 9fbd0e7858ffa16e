"""What samples teach without a label, a row at a time; torch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from homeroom_exporter.heads import unit
from homeroom_exporter.ladder import MASKED

TEMPERATURE = 0.1  # of the alignment's cosines


def alignment(vectors: Sequence[Tensor], presence: Tensor) -> Tensor:
    """InfoNCE between the inputs of a sample (van den Oord et al. 2018; both ways as Radford et al. 2021): [batch].

    vectors: one [batch, width] an input; presence: [batch, inputs]. A row's loss is the mean over its pairs of inputs;
    the other candidates are the same inputs of the batch's other rows. A row with fewer than two inputs gets 0.
    """
    units = [unit(vector) for vector in vectors]
    same = torch.eye(len(presence))
    total, pairs = torch.zeros(len(presence)), torch.zeros(len(presence))
    for a, b in itertools.combinations(range(len(units)), 2):
        here = presence[:, a] * presence[:, b]
        logits = units[a] @ units[b].t() / TEMPERATURE
        others = (here.unsqueeze(0) - 1.0) * -MASKED
        ways = [torch.log_softmax(one + others, 1) for one in (logits, logits.t())]
        total = total - here * ((ways[0] + ways[1]) * same).sum(1) * 0.5
        pairs = pairs + here
    return total / pairs.clamp(min=1.0)
