"""Writes a recipe for samples: slots, tasks and encoders, each with the reason in a comment."""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homeroom.data.ingest.folder import MODALITY_OF
from homeroom.data.preprocess.audio import decode
from homeroom.errors import HomeroomError, InputError, RecipeError
from homeroom.system.files import read_below
from homeroom_exporter.recipe.look import Seen, number_of, quoted
from homeroom_exporter.recipe.recipe import parse_recipe

ENGLISH = (
    "the a an is are was of and to in it that for on with as he she they not this have be at by from or which because"
)
OTHER_LANGUAGES = (
    "el la los las de que y en un una es por con para le les des et est du il elle der die das und ein eine ist nicht "
    "che di lo gli uno della per o os uma não het een van en zijn jest nie się на и в не что bir ve bu"
)
ENGLISH_SHARE = 0.08  # of words, from which on a text is taken for English
WORDS_TO_TELL = 40
TOKENS_A_WORD = 1.4
BUCKETS = (16, 32, 64, 128, 256)
WHISPER_LONGEST_S, EMBEDDING_LONGEST_S, SHORTEST_S = 30.0, 2.0, 0.8
SOUNDS_HEARD, SOUND_LIMIT_BYTES = 40, 64 << 20
NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
CLASS_LIMIT, ORDINAL_LIMIT = 200, 7


@dataclass(frozen=True)
class Proposal:
    """A recipe's text, and a sentence on each choice."""

    text: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class SlotSeen:
    """An input as it was seen. count: entries of a list, 1 otherwise."""

    name: str
    modality: str
    count: int
    values: tuple[Any, ...]


def propose(seen: Seen, name: str) -> Proposal:
    """A recipe that exports with these samples as calibration; InputError where they say too little.

    name: of the bundle, in any words.
    """
    _check_names(seen)
    slots = [_slot(slot, values) for slot, values in seen.inputs.items()]
    tasks, notes = _tasks(seen, slots)
    if not tasks:
        remedy = "give labels: a column `label.TASK`, or a folder for each label"
        raise InputError("has no label to make a task of", where=str(seen.source), details=notes, remedy=remedy)
    encoders = {
        modality: _encoder(modality, slots, seen) for modality in dict.fromkeys(slot.modality for slot in slots)
    }
    reasons = (*(f"{modality}: {why}" for modality, (_, why) in encoders.items()), *notes, *(why for _, why in tasks))
    golden = "its golden samples are drawn by the seed: none of yours is put into the bundle (golden_from)"
    blocks = [
        f"name = {quoted(_name(name))}\nversion = 1  # rises with every release",
        f'# {golden}\ngolden_from = "synthetic"',
        *(f"# {why}\n[encoders.{modality}]\n{body}" for modality, (body, why) in encoders.items()),
        "[slots]\n" + "\n".join(_slot_line(slot) for slot in slots),
        *(f"# {why}\n{body}" for body, why in tasks),
    ]
    text = f"# Written by `homeroom bundle recipe new` from {seen.samples} samples.\n\n" + "\n\n".join(blocks) + "\n"
    try:
        parse_recipe(text)
    except RecipeError as problem:
        what = f"its names do not make a recipe: {problem.what}"
        remedy = problem.remedy or "rename the column, slot or task: lower case, digits, _"
        raise InputError(what, where=str(seen.source), remedy=remedy) from None
    return Proposal(text, (*reasons, golden))


def _check_names(seen: Seen) -> None:
    """InputError where a slot or a task would have a name that no recipe may have."""
    for name in (*seen.inputs, *seen.labels):
        if not NAME.fullmatch(name):
            remedy = "rename the column: lower case, digits and _, beginning with a letter"
            what = f"{name!r} cannot be the name of an input or a task"
            raise InputError(what, where=str(seen.source), remedy=remedy)


def _name(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "lesson"


def _slot(name: str, values: Sequence[Any]) -> SlotSeen:
    """An input's modality, by its values; InputError where they are of none."""
    lists = [value for value in values if isinstance(value, list)]
    entries = [entry for value in values for entry in (value if isinstance(value, list) else [value])]
    count = max((len(value) for value in lists), default=1)
    if all(isinstance(entry, dict) for entry in entries):
        return SlotSeen(name, "table", count, tuple(entries))
    if lists and any(isinstance(entry, list | dict) for entry in entries):
        what = "looks like histories of answers, for which no recipe is written"
        raise InputError(what, where=name, remedy="begin with examples/recipes/knowledge_tracing.toml")
    if all(number_of(entry) is not None for entry in entries):
        remedy = f"call it table.{name}, or label.{name} if it is what the model should learn"
        raise InputError("holds numbers, which are columns of a table", where=name, remedy=remedy)
    kinds = Counter(
        MODALITY_OF.get(Path(str(entry)).suffix.lower(), "text") for entry in entries if len(str(entry)) < 4096
    )
    kind = kinds.most_common(1)[0][0] if kinds else "text"
    if kind != "text" and kinds["text"]:
        what = f"holds {kinds[kind]} files and {kinds['text']} texts"
        raise InputError(what, where=name, remedy="give texts an input of their own")
    modality: str = "image" if kind == "image" else "audio" if kind == "audio" else "text"
    return SlotSeen(name, modality, count, tuple(entries))


def _slot_line(slot: SlotSeen) -> str:
    return f'{slot.name} = "{slot.modality}{f"[{slot.count}]" if slot.count > 1 else ""}"'


def _encoder(modality: str, slots: Sequence[SlotSeen], seen: Seen) -> tuple[str, str]:
    """The table of a modality's encoder, and why this one."""
    values = [value for slot in slots if slot.modality == modality for value in slot.values]
    if modality == "text":
        return _text_encoder([str(value) for value in values], seen)
    if modality == "audio":
        return _sound_encoder([str(value) for value in values], seen.base)
    if modality == "image":
        return (
            'source = "pip:efficientnet-lite0"\ngrid = 2',
            "EfficientNet-Lite0 knows photographs; small, for any picture",
        )
    columns = dict.fromkeys(column for row in values for column in row)
    rows = "\n".join(
        f"  {_column(column, [row[column] for row in values if row.get(column) is not None])}," for column in columns
    )
    return f'source = "table"\ncolumns = [\n{rows}\n]', "means, spreads and categories are those of these samples"


def _column(name: str, cells: Sequence[Any]) -> str:
    numbers = [number_of(cell) for cell in cells]
    known = [number for number in numbers if number is not None and math.isfinite(number)]
    if cells and len(known) == len(cells):
        spread = statistics.pstdev(known) or 1.0
        return f"{{ name = {quoted(name)}, mean = {statistics.fmean(known):.6g}, std = {spread:.6g} }}".replace(
            "e+", "e"
        )
    categories = ", ".join(quoted(one) for one in sorted({str(cell) for cell in cells}))
    return f"{{ name = {quoted(name)}, categories = [{categories}] }}"


def _text_encoder(texts: Sequence[str], seen: Seen) -> tuple[str, str]:
    words = [word for text in texts for word in re.findall(r"[^\W\d_]+", text.lower())]
    lengths = sorted(TOKENS_A_WORD * len(text.split()) + 2 for text in texts)
    longest = lengths[int(0.95 * (len(lengths) - 1))]
    last = next((index for index, bucket in enumerate(BUCKETS) if bucket >= longest), len(BUCKETS) - 1)
    buckets = list(BUCKETS[max(0, last - 2) : last + 1])
    cut = f"; texts beyond {buckets[-1]} tokens are read from their beginning"
    english, why = _is_english(words, seen.languages)
    if english:
        body = f'source = "pip:minilm"\ntaps = [2, 4, 6]\ndim = 64\nbuckets = {buckets}'
        return body, f"MiniLM, since {why}{cut}"
    body = f'source = "pip:use-multilingual"\ntaps = ["ngrams", "sentence"]\ndim = 64\nbuckets = {buckets}'
    return body, f"the encoder of sixteen languages, since {why}; pip:minilm reads English only{cut}"


def _is_english(words: Sequence[str], languages: Counter[str]) -> tuple[bool, str]:
    """Whether texts are English, and how that is known."""
    if stated := {language.lower() for language in languages if language}:
        return all(one.split("-")[0] == "en" for one in stated), f"their language is given: {', '.join(sorted(stated))}"
    if len(words) < WORDS_TO_TELL:
        return False, f"{len(words)} words are too few to tell their language"
    english, others = (sum(word in set(known.split()) for word in words) for known in (ENGLISH, OTHER_LANGUAGES))
    if english >= ENGLISH_SHARE * len(words) and english > 2 * others:
        return True, f"{english / len(words):.0%} of the words are common English ones"
    if max(english, others) < ENGLISH_SHARE * len(words):
        return False, "the words do not show one language"
    return False, "many words are of other languages than English"


def _sound_encoder(names: Sequence[str], base: Path) -> tuple[str, str]:
    seconds = sorted(_seconds(base, name) for name in list(dict.fromkeys(names))[:SOUNDS_HEARD])
    longest = seconds[int(0.95 * (len(seconds) - 1))]
    window = min(max(math.ceil(longest * 10) / 10, SHORTEST_S), WHISPER_LONGEST_S)
    told = f"of {len(seconds)} sounds most are at most {longest:.1f} s"
    if window <= EMBEDDING_LONGEST_S:
        return (
            f'source = "pip:speech-embedding"\ndim = 64\nseconds = {window}',
            f"speech_embedding, a small net for short sounds: {told}",
        )
    cut = f", and of longer ones the loudest {window:g} s are heard" if longest > window else ""
    body = f'source = "pip:whisper-tiny-en"\ntaps = [2, 3, 4]\ndim = 64\nseconds = {window}'
    return body, f"Whisper's encoder, which learned from English speech: {told}{cut}"


def _seconds(base: Path, name: str) -> float:
    wave, rate = decode(read_below(base, name, SOUND_LIMIT_BYTES), name)
    return len(wave) / rate


def _tasks(seen: Seen, slots: Sequence[SlotSeen]) -> tuple[list[tuple[str, str]], list[str]]:
    """The table of each task with its reason, and a note on each set of labels that makes none."""
    tasks, notes = [], []
    for name, values in seen.labels.items():
        try:
            tasks.append(_task(name, [value for value in values if value is not None], slots, seen.from_sheet))
        except HomeroomError as problem:
            notes.append(f"no task {name}: {problem.what}")
    return tasks, notes


def _task(name: str, labels: Sequence[Any], slots: Sequence[SlotSeen], from_sheet: bool) -> tuple[str, str]:
    single = [slot for slot in slots if slot.count == 1]
    several = [slot for slot in slots if slot.count > 1]
    numbers = [number_of(label) for label in labels]
    whole = all(
        number is not None and number == int(number) for number in numbers if number is None or math.isfinite(number)
    )
    if all(isinstance(label, bool) for label in labels):
        if len(single) != 2:
            raise InputError(f"true and false are labels of a matching of two inputs, and there are {len(single)}")
        return _written(name, "matching", [slot.name for slot in single]), f"{name}: whether two inputs belong together"
    if several and single and whole and all(0 <= (number or 0) < several[0].count for number in numbers):
        reads = [single[0].name, several[0].name]
        return _written(name, "choice", reads), f"{name}: which of {several[0].count} {several[0].name} is right"
    if all(isinstance(label, list) for label in labels):
        return _of_lists(name, labels, single)
    reads, head = _reads(single)
    if None not in numbers:
        known = [number for number in numbers if number is not None]
        classes = sorted(set(known))
        if not (whole and from_sheet and 2 <= len(classes) <= ORDINAL_LIMIT):
            offset, scale = statistics.fmean(known), statistics.pstdev(known) or 1.0
            more = f"offset = {offset:.6g}\nscale = {scale:.6g}".replace("e+", "e")
            return _written(name, "regression", reads, more), f"{name}: a number; offset and scale are of these samples"
        rising = ", ".join(quoted(int(one)) for one in classes)
        return _written(name, "ordinal", reads, f"labels = [{rising}]"), f"{name}: whole numbers that rise, a few"
    counts = Counter(" ".join(str(label).split()) for label in labels)
    if not 2 <= len(counts) <= CLASS_LIMIT:
        raise InputError(f"has {len(counts)} different labels, and a task needs 2 to {CLASS_LIMIT}")
    most, least = counts.most_common()[0], counts.most_common()[-1]
    spread = f"{least[0]!r} has the fewest samples, {least[1]}; {most[0]!r} the most, {most[1]}"
    body = _written(name, "classification", reads, f"labels = [{', '.join(map(quoted, sorted(counts)))}]", head)
    return body, f"{name}: one of {len(counts)} labels; {spread}"


def _of_lists(name: str, labels: Sequence[Any], single: Sequence[SlotSeen]) -> tuple[str, str]:
    """Spans, or several labels at once."""
    parts = [part for label in labels for part in label]
    if parts and all(isinstance(part, dict) and "label" in part for part in parts):
        texts = [slot.name for slot in single if slot.modality == "text"]
        if not texts:
            raise InputError("spans need a text")
        known = sorted({str(part["label"]) for part in parts})
        body = _written(name, "spans", texts[:1], f"labels = [{', '.join(map(quoted, known))}]")
        return body, f"{name}: marked parts of {texts[0]}"
    known = sorted({str(part) for part in parts})
    if not 1 <= len(known) <= CLASS_LIMIT:
        raise InputError(f"has {len(known)} different labels, and a task needs 1 to {CLASS_LIMIT}")
    body = _written(name, "multilabel", _reads(single)[0], f"labels = [{', '.join(map(quoted, known))}]")
    return body, f"{name}: several of {len(known)} labels at once"


def _reads(single: Sequence[SlotSeen]) -> tuple[list[str], str]:
    """What a task reads, and its head: two or three texts alone are compared."""
    if not single:
        raise InputError("there is no single input to read")
    texts = all(slot.modality == "text" for slot in single) and 2 <= len(single) <= 3
    return [slot.name for slot in single], 'head = "pair"' if texts else ""


def _written(name: str, kind: str, reads: Sequence[str], *more: str) -> str:
    read = ", ".join(map(quoted, reads))
    lines: Iterator[str] = filter(None, (f'kind = "{kind}"', f"reads = [{read}]", *more))
    return f"[tasks.{name}]\n" + "\n".join(lines)
