"""The kinds of tasks that heads are solved for; the others (spans, tracing) are trained alone."""

from __future__ import annotations

from homeroom.contract.manifest import Task
from homeroom.train.solve.base import Solver
from homeroom.train.solve.canonical import CHOICE, MATCHING
from homeroom.train.solve.discriminant import CLASSIFICATION, ORDINAL
from homeroom.train.solve.multilabel import MULTILABEL
from homeroom.train.solve.ridge import REGRESSION

SOLVERS = {solver.kind: solver for solver in (CLASSIFICATION, ORDINAL, MULTILABEL, REGRESSION, CHOICE, MATCHING)}


def solver_of(task: Task) -> Solver | None:
    """The task's solver; None where its kind is not covered."""
    return SOLVERS.get(task.kind)
