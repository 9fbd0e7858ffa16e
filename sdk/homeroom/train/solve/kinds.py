"""The kinds of tasks that heads are solved for; the others (spans, tracing) are trained alone."""

from __future__ import annotations

from homeroom.contract.manifest import Task
from homeroom.train.solve.base import Solver
from homeroom.train.solve.canonical import SOLVE_CHOICE, SOLVE_MATCHING
from homeroom.train.solve.discriminant import SOLVE_CLASSIFICATION, SOLVE_ORDINAL
from homeroom.train.solve.multilabel import SOLVE_MULTILABEL
from homeroom.train.solve.ridge import SOLVE_REGRESSION

SOLVERS = {
    solver.kind: solver
    for solver in (
        SOLVE_CLASSIFICATION,
        SOLVE_ORDINAL,
        SOLVE_MULTILABEL,
        SOLVE_REGRESSION,
        SOLVE_CHOICE,
        SOLVE_MATCHING,
    )
}


def solver_of(task: Task) -> Solver | None:
    """The task's solver; None where its kind is not covered."""
    return SOLVERS.get(task.kind)
