"""Labels that a recipe calls otherwise than the bundle that it extends."""

from __future__ import annotations

from homeroom.contract.manifest import Manifest, Task
from homeroom.errors import RecipeError
from homeroom_exporter.recipe.recipe import Recipe

Names = dict[str, dict[str, str]]  # by task, the present name of each label that had another


def refuse_idle(recipe: Recipe) -> None:
    """RecipeError where labels are renamed and no bundle is gone on from."""
    for task in recipe.renamed:
        what = "says what labels of an earlier bundle are called now, and none is extended"
        raise RecipeError(what, where=f"tasks.{task}.renamed", remedy="remove it, or give --extends OLD.homeroom")


def renamed_since(old: Manifest, label: str, recipe: Recipe) -> Names:
    """Every earlier name with the present one, of all bundles before.

    old: of the bundle that is extended. label: its name and version.
    RecipeError where a label that is renamed is not there, is there already by its new name, or where a name was one
    of another label before: what devices hold by it would be taken for the wrong one.
    """
    composed = Names()
    for before in old.tasks:
        now = recipe.renamed.get(before.name, {})
        earlier = old.renamed.get(before.name, {})
        _check_names(before, now, earlier, label)
        names = {was: now.get(since, since) for was, since in earlier.items()} | now
        labels = next((task.labels for task in recipe.tasks if task.name == before.name), ())
        if again := [one for one in labels if one in names]:
            what = f"{again[0]!r} was the name of a label before it was renamed, by which devices hold samples"
            raise RecipeError(what, where=f"tasks.{before.name}", remedy="choose a name that no label ever had")
        if names:
            composed[before.name] = names
    return composed


def _check_names(before: Task, now: dict[str, str], earlier: dict[str, str], label: str) -> None:
    where = f"tasks.{before.name}.renamed"
    for was, name in now.items():
        if was in earlier:
            what = f"{was!r} is {earlier[was]!r} in {label} already"
            raise RecipeError(what, where=where, remedy="remove it: what was renamed stays so")
        if was not in before.labels:
            remedy = f"one of {', '.join(before.labels)}"
            raise RecipeError(f"{was!r} is no label of {label}", where=where, remedy=remedy)
        if name in before.labels:
            what = f"{was!r} becomes {name!r}, which {label} has already"
            raise RecipeError(what, where=where, remedy="labels are not merged: choose a name that no label ever had")


def as_now(task: Task, renamed: Names) -> tuple[str, ...]:
    """The labels of an earlier bundle's task by their present names."""
    names = renamed.get(task.name, {})
    return tuple(names.get(label, label) for label in task.labels)
