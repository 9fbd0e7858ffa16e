"""The receipt of added samples in lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from homeroom.system.installation import quoted
from homeroom.system.printable import counted

if TYPE_CHECKING:
    from homeroom.device.receipt import AddReceipt

LINES_SHOWN = 20


def receipt_lines(receipt: AddReceipt, directory: Path) -> Iterator[str]:
    """The lines of a receipt."""
    known = f", {receipt.known:,} were there already" if receipt.known else ""
    yield f"{counted(receipt.added, 'sample')} added{known}"
    if receipt.corrected:
        yield "  corrected, in place of what was there:"
        yield from few([f"    {what} ({count:,})" for what, count in receipt.corrected.items()])
    total = len(receipt.sample_ids)
    width = max((len(task) for task in receipt.labelled), default=0)
    for task, labelled in receipt.labelled.items():
        without = f", {total - labelled:,} without a label" if labelled < total else ""
        yield f"  {task:{width}}  {labelled:,} labelled{without}"
    if receipt.group:
        without = f"; {total - receipt.grouped:,} have none, and are apart by their pupil" * (receipt.grouped < total)
        yield f"  held out whole by {receipt.group}: {receipt.grouped:,} in {counted(receipt.groups, 'group')}{without}"
    for slot, number in receipt.longer.items():
        yield f"  {counted(number, f'{slot} input')} longer than the model reads: a part is left out"
    if receipt.quarantined:
        number = sum(receipt.quarantined.values())
        yield f"  {number:,} quarantined, whole or in part: see `homeroom device quarantine {quoted(directory)}`"
        yield from few([f"    {count:,}: {reason}" for reason, count in receipt.quarantined.items()])
    for state, count in receipt.without_consent.items():
        yield f"  {count:,} never trained on: consent {state}"
    if receipt.missing:
        cells = ", ".join(f"{cell} ({count:,})" for cell, count in receipt.missing.items())
        yield f"  cells taken as missing: {cells}"
    if receipt.unread:
        yield f"  {counted(len(receipt.unread), 'file')} not read:"
        yield from few([f"    {name}: {reason}" for name, reason in receipt.unread.items()])
    if receipt.refused:
        yield f"  {counted(len(receipt.refused), 'row')} not taken:"
        yield from few([f"    {problem}" for problem in receipt.refused])
    yield from few([f"  {note}" for note in receipt.notes])


def few(lines: Sequence[str]) -> list[str]:
    """The first lines, and how many more there are."""
    more = len(lines) - LINES_SHOWN
    return [*lines[:LINES_SHOWN], *([f"    … and {more:,} more"] if more > 0 else [])]
