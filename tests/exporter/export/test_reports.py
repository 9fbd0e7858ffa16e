"""What a recipe would come to, told before it is exported; the card and the report that stand beside a bundle."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import tiny

from homeroom.cli.main import main
from homeroom_exporter.check.check import BackboneCheck, SelfCheck, StepCheck
from homeroom_exporter.check.footprint import Footprint
from homeroom_exporter.check.linear_probe import LinearProbe
from homeroom_exporter.export.model_card import html, model_card, write_papers

TABLE = """
name = "help"
version = 1
[encoders.table]
source = "table"
columns = [{ name = "minutes", mean = 60.0, std = 30.0 }, { name = "right" }]
dim = 4
[slots]
week = "table"
[tasks.needs_help]
kind = "classification"
reads = ["week"]
labels = ["no", "yes"]
"""


def report() -> SelfCheck:
    cost = Footprint(3.25, 90.0)
    probe = LinearProbe("grade", 120, 0.4, 0.71, 0.7, 0.03)
    backbone = BackboneCheck(
        "text", "int8", 90_000, {"float32": 91_000, "int8": 23_000}, 50, (0.995, 0.98), (probe,), {"int8": cost}, 16
    )
    step = StepCheck("grad.text8.batch8", "grad", 3e-7, (), cost)
    return SelfCheck((backbone,), (step,), 10_944, ())


def test_a_dry_run_writes_nothing_and_labels_what_is_estimated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "help.toml"
    recipe.write_text(TABLE)
    main(["bundle", "export", str(recipe), "--dry-run", "--threads", "1"])
    told = " ".join(capsys.readouterr().out.split())
    assert list(tmp_path.iterdir()) == [recipe]
    for words in ("Estimate for 500 samples", "Raspberry Pi 4", "laptop", "(assumed)", "No Pi was measured", "theta:"):
        assert words in told


def test_without_a_dry_run_the_command_says_what_it_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "help.toml"
    recipe.write_text(TABLE)
    with pytest.raises(SystemExit) as ended:
        main(["bundle", "export", str(recipe)])
    assert ended.value.code == 2
    assert "--calibration" in capsys.readouterr().err


def test_an_export_that_fails_leaves_no_keys_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, samples, out = tmp_path / "help.toml", tmp_path / "week.jsonl", tmp_path / "help"
    recipe.write_text(TABLE)
    samples.write_text('{"week": {"lessons": 1}}\n')
    with pytest.raises(SystemExit) as ended:
        main(["bundle", "export", str(recipe), str(out), "--calibration", str(samples)])
    assert ended.value.code == 3
    assert "no column 'lessons'" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == [recipe, samples]


def test_fewer_threads_than_one_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "help.toml"
    recipe.write_text(TABLE)
    with pytest.raises(SystemExit) as ended:
        main(["bundle", "export", str(recipe), "--dry-run", "--threads", "-3"])
    assert ended.value.code == 2
    assert "--threads" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "labels"),
    [("classification", ('"no"', '"yes"')), ("ordinal", ('"no"', '"yes"')), ("multilabel", ("[]", '["no"]'))],
)
def test_calibration_samples_of_one_class_are_refused_and_leave_nothing(
    kind: str, labels: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, samples, out = tmp_path / "help.toml", tmp_path / "week.jsonl", tmp_path / "help"
    recipe.write_text(TABLE.replace("classification", kind))
    week = '{"week": {"minutes": 30.0, "right": 0.5}, "labels": {"needs_help": %s}, "subject": "%s"}\n'
    samples.write_text(week % (labels[0], "p-1") + week % (labels[0], "p-2"))
    for rest in ([str(out)], ["--dry-run"]):
        with pytest.raises(SystemExit) as ended:
            main(["bundle", "export", str(recipe), *rest, "--calibration", str(samples)])
        assert ended.value.code == 3
        said = capsys.readouterr().err
        assert f"{samples}: needs_help: every label is {labels[0].replace(chr(34), chr(39))}" in said
        assert "leave this task's labels out" in said
    assert sorted(tmp_path.iterdir()) == [recipe, samples]


def test_calibration_samples_of_two_classes_or_without_labels_are_taken(tmp_path: Path) -> None:
    recipe, samples = tmp_path / "help.toml", tmp_path / "week.jsonl"
    recipe.write_text(TABLE)
    week = '{"week": {"minutes": 30.0, "right": 0.5}, "labels": %s}\n'
    for first, second in (({"needs_help": "no"}, {"needs_help": "yes"}), ({}, {})):
        samples.write_text(week % json.dumps(first) + week % json.dumps(second))
        main(["bundle", "export", str(recipe), "--dry-run", "--threads", "1", "--calibration", str(samples)])


def test_the_papers_stand_beside_the_bundle_and_name_what_a_reader_asks_for(
    tmp_path: Path, tiny_bundle: tiny.Tiny
) -> None:
    out = tmp_path / "lesson"
    card, page = write_papers(out, tiny_bundle.manifest, tiny_bundle.bundle_id, report())
    assert {card.parent, page.parent} == {tmp_path}
    assert not out.exists()
    said = card.read_text()
    for task in tiny_bundle.manifest.tasks:
        assert f"- {task.name}: {task.kind}" in said
    for licence in tiny_bundle.manifest.licences:
        assert licence.subject in said
    assert "0.9950" in said
    assert tiny_bundle.bundle_id in said


def test_the_report_is_one_sound_page_that_fetches_nothing_and_takes_nothing_for_markup(tiny_bundle: tiny.Tiny) -> None:
    import msgspec

    manifest = msgspec.structs.replace(tiny_bundle.manifest, provenance={"note": "<script>alert(1)</script>"})
    page = html(manifest, tiny_bundle.bundle_id, report())
    assert "<script" not in page
    assert not re.search(r"(src|href)=\"(?!data:)|url\(", page)
    assert page.count("<rect") == 3 + 1 + 1  # sizes, time, memory
    open_tags: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in ("meta", "link"):
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

        def handle_startendtag(self, tag: str, attrs: object) -> None:
            pass

    Checker().feed(page)
    assert not open_tags
    assert "grad.text8.batch8" in page
    assert model_card(manifest, tiny_bundle.bundle_id, report()).startswith("# tiny, version 1")
