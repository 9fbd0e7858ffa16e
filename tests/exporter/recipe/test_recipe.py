"""Recipes: what they give, and the line that every refusal names."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import UNSET

from homeroom.contract.manifest import Slot
from homeroom.errors import RecipeError
from homeroom_exporter.recipe.document import line_of
from homeroom_exporter.recipe.recipe import parse_recipe, read_recipe

RECIPES = sorted(path for path in (Path(__file__).parents[3] / "examples").rglob("*.toml") if path.stem != "pyproject")
GOOD = """\
name = "lesson"
version = 2
seed = 5

[encoders.text]
source = "pip:minilm"
taps = [2, 4]
buckets = [16, 32]

[encoders.image]
source = "pip:efficientnet-lite0"
grid = 2

[slots]
word = "text"
other = "text"
pictures = "image[4]"

[tasks.which]
kind = "choice"
reads = ["word", "pictures"]
weight = 2.0

[tasks.level]
kind = "ordinal"
head = "pair"
reads = ["word", "other"]
labels = ["low", "middle", "high"]

[training]
epochs = 7
"""


def test_a_recipe_says_slots_tasks_heads_and_training() -> None:
    recipe = parse_recipe(GOOD)
    assert recipe.slots == (Slot("word", "text"), Slot("other", "text"), Slot("pictures", "image", 4))
    assert recipe.heads == {"which": "choice", "level": "pair"}
    assert [task.width for task in recipe.tasks] == [4, 2]
    assert recipe.training.epochs == 7
    assert recipe.training.task_weights == {"which": 2.0, "level": 1.0}
    assert recipe.encoders[0].taps == (2, 4)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_example_recipes_are_valid(path: Path) -> None:
    assert read_recipe(path).tasks


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ('name = "lesson"', 'name = "My Lesson"', 1, "must be lower-case letters"),
        ("version = 2", "version = 0", 2, "must be at least 1 (for example version = 1)"),
        ("seed = 5", "sead = 5", 3, "sead: is no field (did you mean seed?)"),
        ("seed = 5", "seed = ", 3, "not valid TOML"),
        (
            'source = "pip:minilm"',
            "",
            5,
            "encoders.text.source: is missing, where the encoder comes from (add source =",
        ),
        ('name = "lesson"', "", 1, 'name: is missing, what the bundle is called (add name = "vocabulary")'),
        ("[tasks.which]", "[task.which]", 19, "task: is no field (did you mean tasks?)"),
        ("version = 2", 'version = "2"', 2, "version: must be a whole number, not text in quotes"),
        ('source = "pip:minilm"', "source = 3", 6, "source: must be text in quotes, not a whole number"),
        ("taps = [2, 4]", "taps = []", 7, "taps: must have at least 1 entries"),
        ("[tasks.level]", "[tasks]\nlevel = 3\n[tasks.other]", 25, "tasks.level: must be a table, not a whole number"),
        ("taps = [2, 4]", 'taps = "all"', 7, "'all' is no choice (one of auto)"),
        ("buckets = [16, 32]", "buckets = [32, 16]", 8, "must rise"),
        ("grid = 2", "grid = 99", 12, "must be at most 7"),
        ("[encoders.image]", "[encoders.smell]", 10, "none of text"),
        ('word = "text"', 'word = "texts"', 15, "no kind of input"),
        ('other = "text"', 'other = "audio"', 16, "no encoder for audio"),
        ('pictures = "image[4]"', 'pictures = "image[40]"', 17, "must be at most 16"),
        ('pictures = "image[4]"', 'pictures = "image"', 21, "several places"),
        ('kind = "choice"', 'kind = "chioce"', 20, "'chioce' is no choice (one of choice, classification, matching"),
        ('"word", "pictures"', '"word", "picture"', 21, "no slot 'picture'"),
        ('head = "pair"', 'head = "choice"', 26, "cannot have the head"),
        ('reads = ["word", "other"]', 'reads = ["other", "pictures"]', 27, "two or three single texts"),
        ('reads = ["word", "other"]', 'reads = ["word", "word"]', 27, "twice"),
        ('labels = ["low", "middle", "high"]', 'labels = ["low"]', 28, "at least 2"),
        (
            "epochs = 7",
            'epochs = "7"',
            31,
            "epochs: must be a whole number, not text in quotes (for example epochs = 20)",
        ),
        ("epochs = 7", "epochs = 7\nnested = true", 32, "needs tiers to nest"),
        ('other = "text"', 'other = "text"\nthird = "text"', 17, "no task reads it"),
        ('other = "text"', 'author = "text"', 16, "'author' means something else"),
        ('other = "text"', 'file = "text"', 16, "give it another name, such as my_file"),
        ("epochs = 7", 'epochs = 7\n[scopes]\nhead.grades = "personal"', 33, "no such segment"),
        (
            "epochs = 7",
            'epochs = 7\n[scopes]\nfusion = "secret"',
            33,
            "'secret' is no choice (one of institution, personal, shared)",
        ),
    ],
)
def test_a_refusal_names_the_line_at_fault(old: str, new: str, line: int, says: str) -> None:
    assert old in GOOD
    with pytest.raises(RecipeError) as refused:
        parse_recipe(GOOD.replace(old, new, 1), "lesson.toml")
    assert refused.value.where == f"lesson.toml line {line}"
    assert says in str(refused.value)


TABLE = """\
name = "help"
version = 1
[encoders.table]
source = "table"
columns = [
    { name = "share", mean = 0.7, std = 0.2, min = 0.0, max = 1.0, unit = "of 1" },
    { name = "kind", categories = ["a", "b"] },
]
[slots]
facts = "table"
[tasks.help]
kind = "classification"
reads = ["facts"]
labels = ["no", "yes"]
"""


def test_a_tables_column_says_what_its_values_can_be() -> None:
    share, kind = parse_recipe(TABLE).encoders[0].columns
    assert (share.usual, share.unit, kind.unit) == ((0.0, 1.0), "of 1", UNSET)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("max = 1.0", "max = -1.0", "no value of 'share'"),
        ("min = 0.0", "min = 9.0", "no value of 'share'"),
        ("std = 0.2", "std = -0.2", "no value of 'share'"),
        ("max = 1.0", "max = nan", "share"),
        ('["a", "b"] }', '["a", "b"], unit = "kg" }', "'kind' has categories"),
        ('unit = "of 1"', 'unit = ""', "unit"),
    ],
)
def test_a_column_without_a_possible_value_is_refused(old: str, new: str, says: str) -> None:
    assert old in TABLE
    with pytest.raises(RecipeError, match=says) as refused:
        parse_recipe(TABLE.replace(old, new, 1), "help.toml")
    assert refused.value.where.startswith("help.toml line ")


def test_a_task_names_the_label_of_what_cannot_be_read_and_the_slot_that_is_held_out_whole() -> None:
    named = TABLE + 'unreadable = "no"\ngroup = "facts"\n'
    (task,) = parse_recipe(named).tasks
    assert (task.unreadable, task.group) == ("no", "facts")
    (task,) = parse_recipe(TABLE).tasks
    assert (task.unreadable, task.group) == (UNSET, UNSET)
    for line, says in (
        ('unreadable = "wrong"', "'wrong' is none of its labels"),
        ('group = "question"', "no single slot 'question'"),
    ):
        with pytest.raises(RecipeError, match=says):
            parse_recipe(TABLE + line)
    with pytest.raises(RecipeError, match="has no label for what cannot be read"):
        parse_recipe(TABLE.replace("classification", "multilabel") + 'unreadable = "no"')


def test_a_recipe_gives_titles_to_slots_tasks_and_labels() -> None:
    named = TABLE.replace('facts = "table"', 'facts = {input = "table", title = "What is known"}')
    recipe = parse_recipe(named + 'title = "Is it so?"\ntitles = {no = "It is not"}\n')
    (slot,), (task,) = recipe.slots, recipe.tasks
    assert (slot.said, task.said) == ("What is known", "Is it so?")
    assert [task.said_label(label) for label in task.labels] == [
        "It is not" if label == "no" else label for label in task.labels
    ]
    (task,) = parse_recipe(TABLE).tasks
    assert (task.title, task.label_titles, task.said, task.said_label("no")) == (UNSET, UNSET, task.name, "no")
    with pytest.raises(RecipeError, match="'maybe' is none of its labels"):
        parse_recipe(TABLE + 'titles = {maybe = "Perhaps"}')
    with pytest.raises(RecipeError, match="title"):
        parse_recipe(TABLE + f'title = "{"x" * 121}"')


def test_a_recipe_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        read_recipe(tmp_path / "absent.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="UTF-8"):
        read_recipe(tmp_path / "binary.toml")


def test_an_empty_recipe_is_told_where_to_begin() -> None:
    for text in ("", "# nothing yet\n"):
        with pytest.raises(RecipeError, match=r"is empty \(begin from one of examples/recipes") as refused:
            parse_recipe(text, "lesson.toml")
        assert refused.value.where == "lesson.toml line 1"


def test_the_line_of_a_dotted_key_is_found() -> None:
    assert line_of("a = 1\n[b]\nc.d = 2\n", ("b", "c", "d")) == 3
