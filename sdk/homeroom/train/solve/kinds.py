"""The kinds of tasks that heads are solved for; the others (spans, tracing) are trained alone."""

from __future__ import annotations

from homeroom.contract.manifest import Task
from homeroom.train.solve import own, own_numbers, own_pairs
from homeroom.train.solve.base import OnTop, Solver
from homeroom.train.solve.canonical import SOLVE_CHOICE, SOLVE_MATCHING
from homeroom.train.solve.discriminant import SOLVE_CLASSIFICATION, SOLVE_ORDINAL, levels_of
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

ON_TOP = {
    "classification": OnTop(own.choose_by(lambda targets: targets.argmax(1)), own.moved_head),
    "ordinal": OnTop(own.choose_by(levels_of), own.moved_head),
    "regression": OnTop(own_numbers.choose_prior, own_numbers.moved_ridge),
    "choice": OnTop(own_pairs.choose_by(SOLVE_CHOICE.sums), own_pairs.moved_pairs),
    "matching": OnTop(own_pairs.choose_by(SOLVE_MATCHING.sums), own_pairs.moved_pairs),
}  # by kind; own sums of several labels are added


def solver_of(task: Task) -> Solver | None:
    """The task's solver; None where its kind is not covered."""
    return SOLVERS.get(task.kind)
