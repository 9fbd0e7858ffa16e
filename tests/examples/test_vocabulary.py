"""The vocabulary lesson without its 161 MB: splits, schools, exercises and the report, on small stamps made here."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[2]))

from examples.vocabulary import splits
from examples.vocabulary.harder import LIKE_LENGTH, harder_exercises, length_alone, write_harder
from examples.vocabulary.lesson import Accuracies, Example, Round, SchoolResult, best_round, round_settings
from examples.vocabulary.media import square
from examples.vocabulary.page import as_page
from examples.vocabulary.report import Shown, as_table, harder_line
from examples.vocabulary.schools import SCHOOLS, Pair, deal, exercises, has, write_all
from examples.vocabulary.splits import Row, groups, share
from examples.vocabulary.stamps import Stamp, read

CATEGORIES = ("animals", "food", "town")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEROOM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def pairs(tmp_path: Path) -> list[Pair]:
    """Stamps with captions and sounds in three languages; every fourth is a twin of the one before it."""
    made = []
    for i in range(900):
        name = f"{CATEGORIES[i % 3]}/{i}"
        picture = tmp_path / "stamps" / f"{i}.png"
        picture.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (i % 256, i // 256, 80)).save(picture)
        sound = tmp_path / "stamps" / "one.ogg"
        sound.write_bytes(b"sound")
        word = i - 3 if i % 4 == 3 else i
        captions = {language: f"{language} {word}" for language in ("en", "es", "fr")}
        stamp = Stamp(name, CATEGORIES[i % 3], picture, captions, {"es": sound, "fr": sound})
        group = f"{CATEGORIES[word % 3]}/{word}"
        made.append((stamp, Row(name, group, "test" if share("test", group) < 0.25 else "train", "0")))
    return made


def test_the_committed_split_keeps_every_group_on_one_side() -> None:
    parts = defaultdict(set)
    for row in splits.load().values():
        parts[row.group].add(row.part)
    assert len(parts) > 600
    assert all(len(sides) == 1 for sides in parts.values())


def test_the_committed_split_follows_its_rule() -> None:
    for row in splits.load().values():
        assert row.part == ("test" if share("test", row.group) < splits.TEST else "train")


def test_the_committed_split_has_every_category_on_both_sides() -> None:
    seen = defaultdict(set)
    for row in splits.load().values():
        seen[row.part].add(row.name.split("/")[0])
    assert seen["train"] == seen["test"]
    assert len(seen["test"]) == 11


def test_equal_captions_in_any_language_and_like_pictures_make_one_group() -> None:
    def stamp(name: str, **captions: str) -> Stamp:
        return Stamp(name, "food", Path(name), captions, {})

    stamps = [
        stamp("a", en="A pear.", es="Una pera."),
        stamp("b", en="A fine pear!", es="una pera"),  # like a in Spanish
        stamp("c", en="An apple.", es="Una manzana."),  # like b by its picture
        stamp("d", en="A train.", es="Un tren."),
    ]
    far = 0xFFFF0000FFFF0000
    assert groups(stamps, [0, 0x0F0F0F0F0F0F0F0F, 0x0F0F0F0F0F0F0F0E, far]) == ["a", "a", "a", "d"]


def test_no_group_is_taught_at_two_schools_and_none_of_the_test(pairs: list[Pair]) -> None:
    dealt = deal(pairs, 0)
    owners = defaultdict(set)
    for school, given in dealt.items():
        assert all(row.part == "train" for _, row in given)
        for _, row in given:
            owners[row.group].add(school)
    assert all(len(names) == 1 for names in owners.values())
    assert deal(pairs, 0) == dealt
    assert deal(pairs, 1) != dealt


def test_each_school_has_its_size_and_its_senses(pairs: list[Pair]) -> None:
    dealt = deal(pairs, 0)
    for school in SCHOOLS:
        assert school.stamps <= len(dealt[school.name]) <= school.stamps + 2
        for row in exercises(school, dealt[school.name], 0):
            assert {"word", "picture", "speech"} & row.keys() == set(school.senses)
            assert row["language"] == school.language


def test_wrong_options_are_the_schools_own_and_never_another_name_for_the_right_one(pairs: list[Pair]) -> None:
    school = SCHOOLS[2]
    mine = [pair for pair in deal(pairs, 0)[school.name]]
    names = {stamp.name for stamp, _ in mine}
    group_of = {stamp.name: row.group for stamp, row in mine}
    for row in exercises(school, mine, 0):
        right = row["pictures"][row["labels"]["picture_of_word"]]
        assert right.name == row["source"]
        assert {option.name for option in row["pictures"]} <= names
        others = [option for option in row["pictures"] if option is not right]
        assert all(group_of[option.name] != group_of[right.name] for option in others)
        assert row["words"][row["labels"]["word_of_speech"]] == row["word"]
        assert row["words"].count(row["word"]) == 1


def test_a_group_belongs_to_one_pupil(pairs: list[Pair]) -> None:
    school = SCHOOLS[0]
    mine = deal(pairs, 0)[school.name]
    group_of = {stamp.name: row.group for stamp, row in mine}
    pupils = defaultdict(set)
    for row in exercises(school, mine, 0):
        pupils[group_of[row["source"]]].add(row["subject"])
    assert all(len(subjects) == 1 for subjects in pupils.values())


def test_every_school_gets_a_folder_that_stands_alone(pairs: list[Pair], tmp_path: Path) -> None:
    few = [pair for pair in pairs if int(pair[0].name.split("/")[1]) < 150]
    written = write_all(few, tmp_path / "data", 0)
    total = 0
    for school in SCHOOLS:
        folder = tmp_path / "data" / school.name
        lines = [json.loads(line) for line in written[school.name]["train"].read_text("utf-8").splitlines()]
        total += len(lines)
        for line in lines:
            for name in [*line.get("pictures", []), *([line["picture"]] if "picture" in line else [])]:
                assert (folder / name).is_file()
                assert not Path(name).is_absolute()
    assert len(written["everything"]["train"].read_text("utf-8").splitlines()) == total
    assert all(has(stamp, SCHOOLS[0]) for stamp, _ in few)


def test_the_usual_draws_stay_as_they_are(pairs: list[Pair], tmp_path: Path) -> None:
    """Figures of different days are comparable: the samples are those of before harder draws came."""
    few = [pair for pair in pairs if int(pair[0].name.split("/")[1]) < 150]
    write_harder(few, tmp_path / "data")
    written = write_all(few, tmp_path / "data", 0)
    files = [written[s.name][part] for s in SCHOOLS for part in ("train", "test")]
    assert hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16] == "e4d861872ee7750c"


def test_harder_wrong_words_are_as_long_and_wrong_pictures_of_one_category(pairs: list[Pair]) -> None:
    school, mine = SCHOOLS[2], pairs[:200]
    rows, of = harder_exercises(school, mine, 0), {stamp.name: stamp for stamp, _ in mine}
    assert len(rows) > 300
    groups = {stamp.name: row.group for stamp, row in mine}
    for row in rows:
        [(task, right)] = row["labels"].items()
        said = of[row["source"]].captions[school.language]
        assert {"picture", "category"}.isdisjoint(row)
        if task == "word_of_speech":
            assert (row["words"][right], row["words"].count(said)) == (said, 1)
            assert all(abs(len(word) - len(said)) <= LIKE_LENGTH for word in row["words"])
            assert {"word", "pictures"}.isdisjoint(row), "the word would be told by the other task's input"
        else:
            assert row["pictures"][right].name == row["source"]
            assert {stamp.category for stamp in row["pictures"]} == {of[row["source"]].category}
            assert [groups[stamp.name] for stamp in row["pictures"]].count(groups[row["source"]]) == 1
    assert not harder_exercises(school, mine[:3], 0), "too few that are alike"


def test_length_alone_finds_the_words_that_it_can_and_no_others(tmp_path: Path) -> None:
    def samples(name: str, *words: str) -> Path:
        rows = [{"speech": word, "words": [word, *words], "labels": {"word_of_speech": 0}} for word in ("a", "bbbb")]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / name

    train = samples("train")
    assert length_alone(train, samples("test", "cccccccccc"), lambda path: len(path.name) / 10) == 1.0
    (tmp_path / "silent").write_text(json.dumps({"word": "a", "labels": {}}) + "\n")
    assert length_alone(train, tmp_path / "silent", lambda path: 1.0) is None, "nothing to hear"


def test_the_report_says_what_harder_draws_and_length_alone_reach() -> None:
    def school(**harder: float) -> SchoolResult:
        return SchoolResult(name="s", samples=1, tested={}, before=_right({}), alone=_right({}), harder=harder)

    shown = harder_line([school(picture_of_word=0.4), school(picture_of_word=0.6, word_of_speech=0.7)], [0.2, 0.3])
    assert "one category 50.0%, words of like length 70.0%, by length alone 25.0% (guessing 25%)" in shown
    assert not harder_line([school()], [])


def test_a_picture_is_drawn_square_without_the_white_around_it(tmp_path: Path) -> None:
    sheet = Image.new("RGB", (300, 100), (255, 255, 255))
    sheet.paste((200, 0, 0), (10, 40, 30, 60))
    sheet.save(tmp_path / "sheet.png")
    with Image.open(square(tmp_path / "sheet.png")) as drawn:
        assert drawn.size == (256, 256)
        assert drawn.getpixel((128, 128)) == (200, 0, 0)
        assert drawn.getpixel((20, 20)) == (200, 0, 0)
        assert drawn.getpixel((2, 2)) == (255, 255, 255)


def test_captions_are_read_by_language_and_empty_ones_left_out(tmp_path: Path) -> None:
    (tmp_path / "food").mkdir()
    (tmp_path / "food" / "pear.txt").write_text("A pear.\nde.utf8=Eine Birne.\nes.utf8=Una pera.\nfr.utf8=\n", "utf-8")
    (tmp_path / "food" / "pear.png").write_bytes(b"")
    (tmp_path / "food" / "pear_desc_es.ogg").write_bytes(b"")
    (tmp_path / "food" / "silent.txt").write_text("No picture.\n", "utf-8")
    [stamp] = read(tmp_path)
    assert (stamp.name, stamp.category) == ("food/pear", "food")
    assert stamp.captions == {"en": "A pear.", "es": "Una pera."}
    assert list(stamp.sounds) == ["es"]


def test_the_rate_falls_over_the_rounds() -> None:
    rates = [round_settings(number, 10).learning_rate for number in range(10)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > 0


def test_the_round_is_chosen_by_validation_whatever_the_test_says() -> None:
    rounds = [Round(n, {"category": 0.4 + n / 10}, _right({"category": 0.1})) for n in (1, 2)]
    assert best_round([_result("one", rounds), _result("two", rounds)]) == 1


def test_the_page_needs_nothing_from_elsewhere_and_shows_losers_too(tmp_path: Path) -> None:
    picture = tmp_path / "pear.png"
    Image.new("RGB", (8, 8), (0, 200, 0)).save(picture)
    example = Example(
        source=str(picture),
        word="<b>Una pera</b>",
        truth="food",
        answer="animals",
        probability=0.4,
        sure=False,
        options=[str(picture)] * 4,
        right=0,
        chosen=2,
    )
    schools = []
    for number, school in enumerate(SCHOOLS):
        together = 0.9 if number else 0.2
        rounds = [Round(1, {"category": 0.5}, Accuracies({"category": together}, {"category": 0.3}, {"category": 0.7}))]
        schools.append(_result(school.name, rounds, [example]))
        schools[-1].before = _right(dict.fromkeys(("category", "picture_of_word", "word_of_speech"), 0.25))
        schools[-1].tested = dict.fromkeys(schools[-1].before.answers, 224)
    central = _result("all", [], [])
    central.elsewhere = {school.name: _right({"category": 0.8}) for school in SCHOOLS}
    shown = Shown(schools, {s.name: s for s in SCHOOLS}, central, {"export": 60.0}, 300.0, 885)
    page = as_page(shown)
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "url(" not in page
    assert f"{SCHOOLS[0].name} did not" in page
    assert f"Worse together than alone: {SCHOOLS[0].name} category 50.0% to 20.0%." in page
    assert f"Worse after own epochs: {SCHOOLS[1].name} 90.0% to 60.0%" in page
    assert "together 30.0% trained, 70.0% solved." in page
    assert f"No sums of other schools had reached {SCHOOLS[0].name}" in page
    assert "<b>Una pera" not in page
    assert page.count('alt="') == page.count("<img")
    table = as_table(shown)
    assert table.row_count == 4 * len(SCHOOLS)
    console = Console(width=80)
    with console.capture() as printed:
        console.print(table)
    assert "…" not in printed.get()  # nothing is cut short on a narrow terminal


def _result(name: str, rounds: list[Round], examples: list[Example] | None = None) -> SchoolResult:
    return SchoolResult(
        name=name,
        samples=100,
        tested={"category": 50},
        before=_right({"category": 0.1}),
        alone=_right({"category": 0.5}),
        own=_right({"category": 0.6}),
        rounds=rounds,
        examples=examples or [],
    )


def _right(answers: dict[str, float]) -> Accuracies:
    return Accuracies(answers, answers)
