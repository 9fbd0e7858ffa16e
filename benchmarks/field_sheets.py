"""Texts, sheets, names, consent and folders of the field benchmark: what word processors, Excel and forms write."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from field_kind import Kind, Outcome, Verdict, right_if
from field_media import encoded, rgb
from field_sounds import word, written

Judge = Callable[[Outcome], Verdict]
LONG = " ".join(["the cat sleeps"] * 40)  # far more than the model reads


def sheet(
    name: str,
    content: str | bytes,
    wanted: str,
    judge: Judge | None,
    *told: str,
    group: str = "sheet",
    file: str = "lesson.csv",
    options: tuple[str, ...] = (),
    then: tuple[tuple[str, ...], ...] = (),
    tracing: bool = False,
) -> Kind:
    data = content.encode() if isinstance(content, str) else content

    def write(folder: Path) -> Path:
        (folder / file).write_bytes(data)
        return folder / file

    return Kind(name, group, wanted, write, judge, told, options, then, tracing=tracing)


def inputs_of(outcome: Outcome, slot: str) -> list[Any]:
    return [one["inputs"][slot][0] for one in outcome.samples if slot in one["inputs"]]


def facts(*rows: dict[str, Any], said: tuple[str, ...] = ()) -> Judge:
    """Right where exactly these cells are stored, and where one of the words is said, if there are any."""

    def judge(outcome: Outcome) -> Verdict:
        cells = [{name: cell for name, cell in row.items() if cell is not None} for row in inputs_of(outcome, "facts")]
        return right_if(cells == list(rows) and mentions(outcome, *said))

    return judge


def words(*texts: str, said: tuple[str, ...] = ()) -> Judge:
    return lambda outcome: right_if(inputs_of(outcome, "word") == list(texts) and mentions(outcome, *said))


def labels(*rows: dict[str, Any], said: tuple[str, ...] = ()) -> Judge:
    return lambda outcome: right_if(
        [one["labels"] for one in outcome.samples] == list(rows) and mentions(outcome, *said)
    )


def mentions(outcome: Outcome, *said: str) -> bool:
    return not said or any(one.lower() in outcome.said.lower() for one in said)


# Texts


def texts() -> list[Kind]:
    row = "word,label.category\n{},cat\n"
    cases: list[tuple[str, str, str, Judge | None, tuple[str, ...]]] = [
        ("letters and accents apart (NFD)", "cafe\u0301", "as if typed in one", words("caf\u00e9"), ()),
        ("a ligature of a PDF", "\ufb01sh", "the letters f and i", words("fish"), ()),
        ("soft hyphens of a web page", "ele\u00adphant", "without them", words("elephant"), ()),
        ("zero-width characters", "c\u200bat\ufeff", "without them", words("cat"), ()),
        ("entities of a web page", "cats &amp; dogs", "the characters", words("cats & dogs"), ()),
        ("tags of a pasted page", "<b>the cat</b><br>", "without the tags", words("the cat"), ()),
        ("full-width letters", "\uff43\uff41\uff54", "as usual letters", words("cat"), ()),
        (
            "Arabic presentation forms",
            "\ufee3\ufeae\ufea3\ufe92\ufe8e",
            "as usual letters",
            words("\u0645\u0631\u062d\u0628\u0627"),
            (),
        ),
        ("typographic quotes", "\u201cthe cat\u201d", "as straight ones", words('"the cat"'), ()),
        ("a line break inside a cell", '"the cat\nsleeps"', "a space", words("the cat sleeps"), ()),
        ("a no-break space", "the\u00a0cat", "a space", words("the cat"), ()),
        ("a NUL character", "ca\0t", "refused or without it", words("cat"), ("NUL", "\\x00", "character")),
        ("a text longer than the model reads", LONG, "said", words(LONG, said=("longer", "cut")), ()),
        ("an emoji alone", "\U0001f408", "set aside, with its reason", aside_or_said, ()),
    ]
    return [
        sheet(name, row.format(cell), wanted, judge, *told, group="text") for name, cell, wanted, judge, told in cases
    ]


def aside_or_said(outcome: Outcome) -> Verdict:
    return right_if(all(one["aside"] for one in outcome.samples) and bool(outcome.samples))


# Sheets


def separators() -> list[Kind]:
    cat = facts({"legs": 4.0, "kilograms": 4.5})
    names, cells = ("facts.legs", "facts.kilograms", "label.category"), ("4", "4.5", "cat")

    def joined(by: str, *cells: str) -> str:
        return f"{by.join(names)}\r\n{by.join(cells)}\r\n"

    plain = joined(",", *cells)
    return [
        sheet("commas", plain, "the cells", cat),
        sheet("a byte order mark", b"\xef\xbb\xbf" + plain.encode(), "the cells", cat),
        sheet("semicolons", joined(";", *cells), "the cells", cat),
        sheet("tabs", joined("\t", *cells), "the cells", cat, file="lesson.tsv"),
        sheet("tabs in a .csv", joined("\t", *cells), "the cells", cat),
        sheet("sep=; in the first line", "sep=;\r\n" + joined(";", *cells), "the cells", cat),
        sheet("UTF-16 of Excel", plain.encode("utf-16"), "the cells", cat),
        sheet("Windows-1252", "word,label.category\nel rat\u00f3n,cat\n".encode("cp1252"), "the text, or refused", words("el rat\u00f3n"), "UTF-8"),
        sheet("decimal commas", joined(";", "4", "4,5", "cat"), "4.5", cat),
        sheet("blanks around names and cells", " facts.legs , facts.kilograms ,label.category\n 4 , 4.5 , cat \n", "the cells", cat),
        sheet("old Mac line ends", plain.replace("\r\n", "\r"), "the cells", cat),
        sheet("UTF-16 without its mark", plain.encode("utf-16-le"), "the cells", cat),
        sheet("a web page called .csv, of a learning platform", "<html><table><tr><td>word</td></tr></table></html>", "refused, with what it is", None, "web page"),
        sheet("a formula that failed, in a text", "word,label.category\n#REF!,cat\n", "refused, as there is no text", None, "no input"),
        sheet("a formula that failed, beside others", "word,facts.legs,label.category\n#NAME?,4,cat\n", "missing, and said", facts({"legs": 4.0}, said=("#NAME?",))),
        sheet("a path with backslashes", "picture,label.category\ncat\\a.png,cat\n", "refused, saying how", None, "write /"),
        sheet("wholly empty rows", plain + ",,\r\n,,\r\n", "passed over", cat),
        sheet("wholly empty columns", "facts.legs,facts.kilograms,,,label.category\n4,4.5,,,cat\n", "passed over", cat),
        sheet("a note under the table", plain + "\r\nMade by Ms Lee,,\r\n", "refused", None, "line"),
        sheet("a note below an empty row, in a column of text", "word,label.category\na cat,cat\n\nStand: 3. Mai\n", "refused, saying what to do", None, "looks like a note"),
        sheet("a quote that is never closed", 'word,label.category\n"a cat,cat\na dog,dog\n', "refused, with the line", None, "look for a quote"),
        sheet("names in capitals", "Facts.Legs,Facts.Kilograms,Label.Category\n4,4.5,cat\n", "the cells", cat, "legs"),
        sheet("a column twice", "word,word,label.category\na cat,a dog,cat\n", "refused", None, "once"),
        sheet("more cells than columns", "word,label.category\na cat,cat,what\n", "refused", None, "cells", "columns"),
        sheet("names without rows", "word,label.category\n", "refused", None, "no sample"),
        sheet("an empty file", "", "refused", None, "names each column", "empty"),
        sheet("a column that the bundle lacks", "id,date,word,label.category\n1,2026-01-02,a cat,cat\n", "refused, naming --ignore", None, "ignore"),
        sheet("a column left out by hand", "id,word,label.category\n1,a cat,cat\n", "taken", words("a cat"), options=("--ignore", "id")),
    ]  # fmt: skip


def numbers() -> list[Kind]:
    def kilograms(name: str, cell: str, wanted: str, judge: Judge | None, *told: str) -> Kind:
        return sheet(
            name, f'facts.legs,facts.kilograms,label.category\n4,"{cell}",cat\n', wanted, judge, *told, group="number"
        )

    missing = facts({"legs": 4.0})
    cases = [kilograms(f"{cell!r} for missing", cell, "missing", missing) for cell in ("n/a", "#N/A", "NULL", "-", "?")]
    return [
        *cases,
        kilograms("a number that reads two ways", "1.250", "asked about", None, "1.250", "two ways"),
        kilograms("a thousands point and a decimal comma", "1.250,5", "1250.5, set aside as far off", far_off),
        kilograms("a percentage", "45%", "0.45; asked about where 45 is usual too", facts({"legs": 4.0, "kilograms": 0.45}), "%", "percent"),
        kilograms("a unit beside the number", "4.5 kg", "refused or 4.5", facts({"legs": 4.0, "kilograms": 4.5}), "not a number"),
        kilograms("a value far from all others", "4500", "set aside, with the usual range", far_off),
        kilograms("infinity", "inf", "refused", None, "not a number"),
        kilograms("Excel's ####", "####", "refused", None, "not a number"),
        kilograms("a date in place of a number", "04.05.2026", "refused", None, "not a number", "date"),
        kilograms("digits of another script", "\u0664", "4, or refused", facts({"legs": 4.0, "kilograms": 4.0}), "not a number"),
        kilograms("an underscore in a number", "4_5", "refused", None, "not a number"),
        kilograms("a hexadecimal number", "0x10", "refused", None, "not a number"),
    ]  # fmt: skip


def far_off(outcome: Outcome) -> Verdict:
    return right_if(bool(outcome.samples) and all("kilograms" in one["aside"] for one in outcome.samples))


def label_cells() -> list[Kind]:
    def label(name: str, cell: str, wanted: str, judge: Judge | None, *told: str, task: str = "category") -> Kind:
        return sheet(name, f'word,label.{task}\na cat,"{cell}"\n', wanted, judge, *told, group="label")

    cat = labels({"category": "cat"})
    slips = ["the cat,cat"] * 5_000
    for kind, cell in enumerate(["catt", "Dogg", "house", "n", "cat;dog", "12"]):
        for number in range(7 if kind < 4 else 6):
            slips[kind * 700 + number * 31] = f"the cat,{cell}"
    many = "word,label.category\n" + "\n".join(slips) + "\n"
    return [
        label("a label in capitals", "Cat", "cat", cat),
        label("a label with blanks", " cat ", "cat", cat),
        label("a label with a no-break space behind it", "cat\u00a0", "cat", cat),
        label("a label with a character that nobody sees", "c\u200bat", "cat", cat),
        label("several ticked boxes of Google Forms", "fur, swims", "both", labels({"traits": ["fur", "swims"]}), task="traits"),
        label("several ticked boxes of Microsoft Forms", "fur;swims;", "both", labels({"traits": ["fur", "swims"]}), task="traits"),
        label("several ticked boxes, one misspelt", "fur, swimms", "refused", None, "fur, swimms", task="traits"),
        label("several ticked boxes where one is asked for", "cat, dog", "refused", None, "cat, dog"),
        sheet("a column called labels", "word,labels\na cat,cat\n", "refused, with its right name", None, "label.", group="label"),
        label("a label misspelt", "catt", "refused, with the near one", None, "cat"),
        label("an empty label", "", "no label, and said", labels({}, said=("no label", "0 labelled", "not labelled"))),
        label("a number with a decimal comma", "12,5", "12.5", labels({"weight": 12.5}), task="weight"),
        label("a number far from all others", "1e308", "refused", None, "far from", task="weight"),
        label("true and false", "TRUE", "refused, since this task asks for names", None, "TRUE"),
        sheet("40 slips in 5,000 rows", many, "all named in one run", None, "40", group="label"),
        sheet("40 slips, the good rows wanted", many, "4,960 rows", good_rows, group="label", options=("--skip-bad", "bad.csv")),
        sheet("a label in the wrong order of columns", "label.category,word\ncat,a cat\n", "taken", cat, group="label"),
        sheet("an unknown task", "word,label.animal\na cat,cat\n", "refused", None, "animal", group="label"),
    ]  # fmt: skip


def good_rows(outcome: Outcome) -> Verdict:
    return right_if("4960" in outcome.said.replace(",", ""))


def other_files() -> list[Kind]:
    line = {"word": "a cat", "labels": {"category": "cat"}}
    cat = words("a cat")
    kinds = [
        sheet("JSON Lines", json.dumps(line) + "\n", "taken", cat, file="lesson.jsonl", group="file"),
        sheet("a JSON array", json.dumps([line]), "taken, or refused", cat, "jsonl", "JSON", file="lesson.json", group="file"),
        sheet("a JSON key twice", '{"word": "a cat", "word": "a dog", "labels": {"category": "cat"}}\n', "refused", None, "twice", file="lesson.jsonl", group="file"),
        sheet("NaN in JSON", '{"facts": {"legs": NaN}}\n', "refused", None, "JSON", file="lesson.jsonl", group="file"),
        sheet("JSON 100,000 deep", '{"word":' + "[" * 100_000 + "]" * 100_000 + "}\n", "refused", None, file="lesson.jsonl", group="file"),
        sheet("an old Excel file (.xls)", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "refused", None, "xls", file="lesson.xls", group="file"),
        sheet("an OpenDocument sheet", b"PK\x03\x04" + bytes(100), "refused", None, "ods", file="lesson.ods", group="file"),
        sheet("an Excel file called .csv", b"PK\x03\x04" + bytes(100), "refused, with what it is", None, "xlsx", "Excel", group="file"),
        sheet("a Word document", b"PK\x03\x04" + bytes(100), "refused", None, "docx", file="lesson.docx", group="file"),
        sheet("a file in capitals", "word,label.category\na cat,cat\n", "taken", cat, file="Lesson.CSV", group="file"),
        sheet("Moodle's export", "First name,Surname,Response 1,Grade/10.00\nAda,L,a cat,8.00\n", "refused, naming --map", None, "map", group="file"),
    ]  # fmt: skip
    return kinds


# People


AUTHORED = "word,label.category,subject,author\na cat,cat,p-1,Ms Ray\n"
MOVING = (
    "word,label.category,label.traits,subject,author,consent,consent_by,retain_until\n"
    "a cat,cat,,p-1,Ms Ray,given,the mother,2999-01-01\na dog,,,p-1,,,,\n"
)


def moved(outcome: Outcome) -> Verdict:
    names = ("subject", "author", "retain_until", "labels")
    first = ["p-1", "Ms Ray", "2999-01-01", {"category": "cat"}]
    facts = [[one[name] for name in names] for one in outcome.samples]
    consents = [one["consent"] for one in outcome.samples]
    kept = facts == [first, ["p-1", None, None, {}]] and consents == [{"state": "given", "by": "the mother"}, None]
    return right_if(kept and inputs_of(outcome, "word") == ["a cat", "a dog"])


def names() -> list[Kind]:
    def forgotten(name: str, held: str, forget: str) -> Kind:
        line = json.dumps({"word": "a cat", "labels": {"category": "cat"}, "subject": held}, ensure_ascii=False)
        gone: Judge = lambda outcome: right_if(not outcome.samples)  # noqa: E731
        asked = ("forget", "DIR", forget, "--yes")
        return sheet(name, line + "\n", "forgotten, or told who is held", gone, "also held", group="name", file="lesson.jsonl", then=(asked,))  # fmt: skip

    number = '{"word": "a cat", "labels": {"category": "cat"}, "subject": 7}\n'
    return [
        forgotten("the same name", "p-1", "p-1"),
        forgotten("a blank at its end", "p-1 ", "p-1"),
        forgotten("other capitals", "P-1", "p-1"),
        forgotten("accents apart and in one", "Zoe\u0308", "Zo\u00eb"),
        forgotten("a zero-width space", "p\u200b-1", "p-1"),
        forgotten("7.0 for 7", "7.0", "7"),
        forgotten("another dash", "p\u20131", "p-1"),
        forgotten("07 for 7", "07", "7"),
        forgotten("two blanks for one", "Ada  L", "Ada L"),
        sheet("a teacher's sample of a pupil, the pupil forgotten", AUTHORED, "gone", lambda o: right_if(not o.samples), group="name", then=(("forget", "DIR", "p-1", "--yes"),)),
        sheet("a teacher's sample of a pupil, the teacher forgotten", AUTHORED, "the name is gone, the sample stays", lambda o: right_if([(s["subject"], s["author"]) for s in o.samples] == [("p-1", None)]), group="name", then=(("forget", "DIR", "Ms Ray", "--yes"),)),
        sheet("a pupil who moves", MOVING, "all of it, once", moved, group="name", then=(("hand-over", "DIR", "p-1", "--out", "OUT"), ("forget", "DIR", "p-1", "--yes"), ("add", "DIR", "OUT"), ("add", "DIR", "OUT"))),
        sheet("a name that nobody sees", '{"word": "a cat", "subject": "\\u200b"}\n', "refused", None, "names nobody", group="name", file="lesson.jsonl"),
        sheet("a sheet in which some rows name nobody", "word,label.category,subject\na cat,cat,p-1\na dog,dog,\n", "said", lambda o: right_if(mentions(o, "1 of 2 name no subject")), group="name"),
        sheet("a model of a misspelt person asked", "word,label.category,subject\na cat,cat,p-1\n", "said", lambda o: right_if(mentions(o, "the shared model answers")), group="name", then=(("predict", "DIR", "word=a cat", "--profile", "p1"),)),
        sheet("a number as name in JSON", number, "the name 7", lambda o: right_if([s["subject"] for s in o.samples] == ["7"]), group="name", file="lesson.jsonl"),
        sheet("a student's number that Excel has shortened", "word,subject\na cat,1.23457E+11\n", "refused", None, "shortened", group="name"),
        sheet("a name with an apostrophe", "word,subject\na cat,O\u2019Neil\n", "forgotten, or told who is held", lambda o: right_if(not o.samples), "also held", group="name", then=(("forget", "DIR", "O'Neil", "--yes"),)),
        sheet("a name with marks of direction", "word,subject\na cat,\u202b\u05d3\u05e0\u05d4\u202c\n", "without them", lambda o: right_if([s["subject"] for s in o.samples] == ["\u05d3\u05e0\u05d4"]), group="name"),
        sheet("a name of 300 characters", f"word,subject\na cat,{'p' * 300}\n", "refused", None, "256", "characters", group="name"),
        sheet("a name with a line break", 'word,subject\na cat,"p\n1"\n', "refused, or without it", lambda o: right_if(all("\n" not in s["subject"] for s in o.samples)), "subject", group="name"),
    ]  # fmt: skip


COLUMNS = "word,label.category,subject,consent\n"
FORM = "word,label.category,consent,consent_by,consent_on,consent_basis\na cat,cat,given,Ms Ray,03.05.2026,form 7\n"


def form_kept(outcome: Outcome) -> Verdict:
    wanted = {"state": "given", "by": "Ms Ray", "on": "2026-05-03", "basis": "form 7"}
    return right_if([one["consent"] for one in outcome.samples] == [wanted])


def consents() -> list[Kind]:
    def consent(text: str, used: bool) -> Kind:
        judge: Judge = lambda outcome: right_if(all(one["trainable"] == used for one in outcome.samples))  # noqa: E731
        wanted = "trained on" if used else "not trained on"
        return sheet(
            f"consent {text!r}",
            f"word,label.category,consent\na cat,cat,{text}\n",
            wanted,
            judge,
            "consent",
            group="consent",
        )

    day = "word,label.category,retain_until\na cat,cat,{}\n"

    def until(cell: str, wanted: str | None) -> Kind:
        judge: Judge = lambda outcome: right_if([one["retain_until"] for one in outcome.samples] == [wanted])  # noqa: E731
        return sheet(
            f"kept until {cell!r}",
            day.format(cell),
            wanted or "refused",
            judge if wanted else None,
            "2027-07-31",
            "day",
            group="consent",
        )

    return [
        consent("given", True),
        consent("refused", False),
        consent("refused by the mother", False),
        consent("withdrawn", False),
        consent("no", False),
        consent("not given", False),
        consent("gven", False),
        sheet("who consented, but not what", "word,label.category,consent_by\na cat,cat,Ms Ray\n", "refused", None, "consent", group="consent"),
        sheet("consent with who, when and why", FORM, "given, with all of it", form_kept, group="consent"),
        sheet("words beside no consent", "word,label.category,consent_text\na cat,cat,letter of 3 May\n", "listed to be decided", lambda o: right_if(mentions(o, "letter of 3 May")), group="consent", then=(("consent", "DIR"),)),
        sheet("consent withdrawn by the next sheet", COLUMNS + "a cat,cat,p-1,given\n", "not trained on", lambda o: right_if([s["trainable"] for s in o.samples] == [False]), group="consent", then=(("add", "DIR", "FILE:" + COLUMNS + "a cat,cat,p-1,withdrawn\n"),)),
        sheet("an old sheet after a withdrawal", COLUMNS + "a cat,cat,p-1,withdrawn\n", "not trained on", lambda o: right_if([s["trainable"] for s in o.samples] == [False]), group="consent", then=(("add", "DIR", "FILE:" + COLUMNS + "a cat,cat,p-1,given\n"),)),
        until("2027-07-31", "2027-07-31"),
        until("31.07.2027", "2027-07-31"),
        until("31/07/2027", "2027-07-31"),
        until("03/04/2027", None),
        until("2027-13-01", None),
        until("46234", None),
    ]  # fmt: skip


# Corrections and removals


def corrections() -> list[Kind]:
    row = "word,label.category,subject\na cat,{},{}\n"

    def again(name: str, wanted: str, first: str, second: str, judge: Judge, *more: tuple[str, ...]) -> Kind:
        return sheet(name, first, wanted, judge, group="correction", then=(("add", "DIR", "FILE:" + second), *more))

    dog, slip = row.format("dog", "p-1"), row.format("cat", "p-1")
    two = "word,label.category,subject\na cat,cat,p-1\na cat,dog,p-1\n"
    return [
        again("a label corrected", "replaced, and said", slip, dog, labels({"category": "dog"}, said=("now 'dog'",))),
        again("the old file once more", "the correction stays", slip, dog, labels({"category": "dog"}), ("add", "DIR", "FILE:" + slip)),
        again("the same file twice", "stored once", slip, slip, labels({"category": "cat"})),
        again("a second task for the same inputs", "both labels", slip, "word,label.weight,subject\na cat,12.5,p-1\n", labels({"category": "cat", "weight": 12.5})),
        again("the same words of nobody", "both kept, and said", row.format("cat", ""), row.format("dog", ""), labels({"category": "cat"}, {"category": "dog"}, said=("both are kept",))),
        sheet("two rows of one file that contradict", two, "the second is set aside", lambda o: right_if([bool(s["aside"]) for s in o.samples] == [False, True]), group="correction"),
        sheet("a sample removed by its id", slip, "gone, with what cannot be taken back", lambda o: right_if(not o.samples and mentions(o, "not taken back")), group="correction", then=(("remove", "DIR", "FIRST-ID", "--yes"),)),
        sheet("a sample removed by 4 characters of its id", slip, "refused", None, "8 characters", group="correction", then=(("remove", "DIR", "3f2a", "--yes"),)),
    ]  # fmt: skip


# Folders


def media_folder(folder: Path, *, where: str = "cat") -> Path:
    (folder / where).mkdir(parents=True, exist_ok=True)
    (folder / where / "a.png").write_bytes(encoded(rgb(), "PNG"))
    return folder


def folder_kind(name: str, wanted: str, write: Callable[[Path], Path], judge: Judge | None, *told: str) -> Kind:
    return Kind(name, "folder", wanted, write, judge, told)


def with_file(folder: Path, file: str, data: bytes) -> Path:
    media_folder(folder)
    (folder / file).write_bytes(data)
    return folder


def linked(folder: Path) -> Path:
    media_folder(folder)
    (folder / "cat" / "b.png").symlink_to("/etc/passwd")
    return folder


def piped(folder: Path) -> Path:
    import os

    media_folder(folder)
    os.mkfifo(folder / "cat" / "b.png")
    return folder


def folders() -> list[Kind]:
    cat, named = labels({"category": "cat"}), partial(labels, {"category": "cat"})
    sheet_text = b"picture,label.category,subject\ncat/a.png,fish,p-1\n"
    twice = b"file,label.category\ncat/a.png,cat\ncat/a.png,dog\n"
    return [
        folder_kind("folders named by label", "labelled", media_folder, cat),
        folder_kind("a folder in capitals", "labelled", partial(media_folder, where="Cat"), cat),
        folder_kind("a folder misspelt", "no label, and the near one is said", partial(media_folder, where="catt"), labels({}, said=("cat?", "'cat'", "`cat`")), "cat"),
        folder_kind("a folder in a folder", "labelled", partial(media_folder, where="term 1/cat"), cat),
        folder_kind("a sheet of samples beside the media", "its labels", lambda f: with_file(f, "lesson.csv", sheet_text), labels({"category": "fish"}), "lesson.csv"),
        folder_kind("a photo that is not read", "named", lambda f: with_file(f, "cat/b.psd", b"8BPS"), named(said=("b.psd",)), "b.psd"),
        folder_kind("a document among the media", "named", lambda f: with_file(f, "cat/plan.docx", b"PK"), named(said=("plan.docx",)), "plan.docx"),
        folder_kind("Thumbs.db and .DS_Store", "passed over", lambda f: with_file(with_file(f, ".DS_Store", b"x"), "Thumbs.db", b"x"), cat),
        folder_kind("a file twice in labels.csv", "refused", lambda f: with_file(f, "labels.csv", twice), None, "twice"),
        folder_kind("labels.csv of a file that is not there", "refused", lambda f: with_file(f, "labels.csv", b"file,label.category\nb.png,cat\n"), None, "b.png"),
        folder_kind("Labels.csv in capitals", "its labels", lambda f: with_file(f, "Labels.csv", b"file,label.category\ncat/a.png,fish\n"), labels({"category": "fish"})),
        folder_kind("two pictures of one name", "refused, or two samples", lambda f: with_file(f, "cat/a.jpg", encoded(rgb(), "JPEG")), lambda o: right_if(len(o.samples) == 2), "second"),
        folder_kind("a voice message of a messenger", "read", lambda f: with_file(f, "cat/PTT-20260101-WA0001.opus", written(word(rate=48_000), "OGG", "OPUS", 48_000)), lambda o: right_if(len(o.samples) == 2)),
        folder_kind("a TIFF among the pictures", "read", lambda f: with_file(f, "cat/b.tiff", encoded(rgb(), "TIFF")), lambda o: right_if(len(o.samples) == 2)),
        folder_kind("an Opus sound", "read", lambda f: with_file(f, "cat/b.opus", written(word(rate=48_000), "OGG", "OPUS", 48_000)), lambda o: right_if(len(o.samples) == 2)),
        folder_kind("a link out of the folder", "not followed, and named", linked, named(said=("b.png",)), "b.png"),
        folder_kind("a pipe", "not read, and named", piped, named(said=("b.png",)), "b.png"),
        folder_kind("a folder that unpacking put into another, with its sheet", "its labels", lambda f: with_file(f, "cat/labels.csv", b"file,label.category\na.png,fish\n"), labels({"category": "fish"})),
        folder_kind("an empty folder", "refused", lambda f: f, None, "no pictures"),
        folder_kind("a zip of media", "refused", zipped, None, "zip"),
    ]  # fmt: skip


def zipped(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "lesson.zip", "w") as archive:
        archive.writestr("cat/a.png", encoded(rgb(), "PNG"))
    return folder / "lesson.zip"


def kinds() -> list[Kind]:
    return [
        *texts(),
        *separators(),
        *numbers(),
        *label_cells(),
        *other_files(),
        *names(),
        *consents(),
        *corrections(),
        *folders(),
    ]
