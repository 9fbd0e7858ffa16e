"""Statistics are exact: any partition and order gives the same integers, and what is taken away leaves no trace."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homeroom.contract.statistics import encoding
from homeroom.contract.statistics.accumulate import (
    BlockVectors,
    exact_product,
    numbers_to_grid,
    sum_samples,
    to_grid,
)
from homeroom.contract.statistics.encoding import HEADER_LIMIT_BYTES, LIMIT_BYTES, encode, read
from homeroom.contract.statistics.sums import (
    CHANGE_LIMIT,
    NOTHING,
    ONE,
    SAMPLE_LIMIT,
    Cell,
    Statistics,
    add,
    check_total,
    difference,
    merge,
    subtract,
)
from homeroom.errors import UpdateError

WORD, PICTURE = "1" * 64, "2" * 64
LABELS = ("cat", "dog", "a |fish")


def lesson(count: int, seed: int, *, numbers: bool = True) -> tuple[list[BlockVectors], np.ndarray, np.ndarray]:
    """Blocks of samples (a fifth of each absent), their classes int [n], and a number each."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    blocks = []
    for name, width in ((WORD, 5), (PICTURE, 3)):
        present = rng.random(count) < 0.8
        vectors = to_grid(rng.normal(0, 0.6, (count, width)) + labels[:, None] * 0.2)
        blocks.append(BlockVectors(name, vectors * present[:, None], present))
    return blocks, labels, numbers_to_grid(rng.normal(0, 3, count))


def sums(blocks: list[BlockVectors], labels: np.ndarray, numbers: np.ndarray, rows: np.ndarray) -> Statistics:
    """Of the samples with these numbers: a task of classes and one of numbers."""
    some, every = [block.subset(rows) for block in blocks], np.ones(len(rows), bool)
    by_label = {name: labels[rows] == c for c, name in enumerate(LABELS)}
    classes = sum_samples("animal", some, by_label, moments=every)
    return add(classes, sum_samples("weight", some, {"": every}, moments=every, numbers=numbers[rows]))


@given(st.integers(0, 60), st.integers(0, 2**32), st.lists(st.integers(0, 3), min_size=60, max_size=60))
@settings(max_examples=40, deadline=None)
def test_any_partition_in_any_order_gives_the_same_integers_and_bytes(count: int, seed: int, home: list[int]) -> None:
    blocks, labels, numbers = lesson(count, seed)
    schools = np.array(home[:count], int)
    parts = [sums(blocks, labels, numbers, np.flatnonzero(schools == school)) for school in range(4)]
    whole = sums(blocks, labels, numbers, np.random.default_rng(seed).permutation(count))
    assert merge(parts) == merge(parts[::-1]) == whole
    assert encode(merge(parts)) == encode(merge(parts[::-1])) == encode(whole)
    check_total(whole)


@given(st.integers(1, 60), st.integers(0, 2**32), st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_a_part_taken_away_leaves_the_bytes_of_a_total_that_never_had_it(count: int, seed: int, share: float) -> None:
    blocks, labels, numbers = lesson(count, seed)
    gone = np.random.default_rng(seed).random(count) < share
    whole, part, rest = (
        sums(blocks, labels, numbers, np.flatnonzero(rows)) for rows in (np.ones(count, bool), gone, ~gone)
    )
    assert encode(subtract(whole, part)) == encode(rest)
    assert add(rest, difference(whole, rest)) == whole
    assert subtract(whole, whole) == NOTHING


def test_sums_are_those_of_plain_integers() -> None:
    blocks, labels, numbers = lesson(40, 7)
    total = sums(blocks, labels, numbers, np.arange(40))
    word, picture = blocks
    for c, name in enumerate(LABELS):
        chosen = (labels == c) & word.present
        assert total.count("animal", name, WORD, WORD) == chosen.sum()
        assert total.count("animal", name, PICTURE, WORD) == (chosen & picture.present).sum()
        assert total.cells[Cell("animal", "vector", name, (WORD,))].tolist() == word.values[chosen].sum(0).tolist()
    pairs = word.values.T @ picture.values
    assert total.cells[Cell("animal", "moment", "", (WORD, PICTURE))].tolist() == pairs.ravel().tolist()
    own = word.values.T @ word.values
    assert total.cells[Cell("animal", "moment", "", (WORD, WORD))].tolist() == own[np.triu_indices(5)].tolist()
    y = numbers[word.present]
    assert total.cells[Cell("weight", "number", "", (WORD,))].tolist() == [y.sum(), (y * y).sum()]
    product = numbers @ word.values
    assert total.cells[Cell("weight", "product", "", (WORD,))].tolist() == product.tolist()


def test_products_are_exact_where_they_are_largest() -> None:
    first = np.full((4096, 1), 8 * ONE, np.int64)
    assert exact_product(first, np.full((4096, 2), ONE, np.int64)).tolist() == [[4096 * 8 * ONE**2] * 2]


@given(st.integers(1, 96), st.integers(0, 2**32), st.floats(0.01, 100))
@settings(max_examples=60, deadline=None)
def test_a_vector_on_the_grid_has_norm_one_at_most(width: int, seed: int, scale: float) -> None:
    vectors = np.random.default_rng(seed).normal(0, scale, (20, width))
    grid = to_grid(vectors)
    assert ((grid * grid).sum(1) <= ONE**2).all()
    cut = vectors / np.maximum(1, np.linalg.norm(vectors, axis=1))[:, None]
    assert np.abs(grid / ONE - cut).max() <= 1 / ONE


def test_numbers_are_cut_to_the_range() -> None:
    assert numbers_to_grid(np.array([-1e9, 0.5, 1e9])).tolist() == [-8 * ONE, ONE // 2, 8 * ONE]


def test_taking_away_what_was_never_there_is_refused_and_changes_nothing() -> None:
    blocks, labels, numbers = lesson(30, 3)
    total = sums(blocks, labels, numbers, np.arange(15))
    before = encode(total)
    with pytest.raises(UpdateError, match="never in it"):
        subtract(total, sums(blocks, labels, numbers, np.arange(10, 30)))
    assert encode(total) == before


@pytest.mark.parametrize(
    ("kind", "row", "blocks", "values"),
    [
        ("count", "cat", (WORD, WORD), [SAMPLE_LIMIT + 1]),
        ("count", "cat", (WORD, WORD), [-1]),
        ("count", "cat", (WORD, PICTURE), [40]),
        ("vector", "cat", (WORD,), [40 * ONE, 0, 0, 0, 0]),
        ("vector", "bird", (WORD,), [1, 0, 0, 0, 0]),
        ("moment", "", (WORD, WORD), [40 * ONE**2, *[0] * 14]),
        ("moment", "", (WORD, WORD), [-1, *[0] * 14]),
        ("moment", "", (WORD, PICTURE), [40 * ONE**2, *[0] * 14]),
        ("number", "", (WORD,), [8 * ONE * 40, 1]),
        ("number", "", (WORD,), [1, -1]),
        ("product", "", (WORD,), [8 * ONE**2 * 40, 0, 0, 0, 0]),
    ],
)
def test_sums_that_no_samples_can_have_are_refused(
    kind: str, row: str, blocks: tuple[str, ...], values: list[int]
) -> None:
    lessons, labels, numbers = lesson(30, 5)
    task = "weight" if kind in ("number", "product") else "animal"
    total = sums(lessons, labels, numbers, np.arange(30))
    cell = Cell(task, kind, row, blocks)  # type: ignore[arg-type]
    with pytest.raises(UpdateError):
        check_total(Statistics({**total.cells, cell: np.array(values, np.int64)}))


def test_sums_near_the_limit_are_refused_in_words_and_never_wrap() -> None:
    cell = Cell("animal", "vector", "cat", (WORD,))
    most = Statistics({cell: np.array([CHANGE_LIMIT])})
    with pytest.raises(UpdateError, match="limit"):
        add(most, most)
    with pytest.raises(UpdateError, match="limit"):
        add(NOTHING, Statistics({cell: np.array([CHANGE_LIMIT + 1])}))
    with pytest.raises(UpdateError, match="do not fit"):
        add(most, Statistics({cell: np.array([1, 2])}))


def test_bytes_bring_the_sums_back() -> None:
    blocks, labels, numbers = lesson(50, 11)
    for statistics in (NOTHING, sums(blocks, labels, numbers, np.arange(50))):
        assert read(encode(statistics)) == statistics
    change = difference(NOTHING, statistics)
    assert read(encode(change)) == change
    widest = Statistics({Cell("t", "vector", "", (WORD,)): np.array([-CHANGE_LIMIT, 1])})
    assert read(encode(widest)) == widest


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_bytes_are_refused(data: st.DataObject) -> None:
    blocks, labels, numbers = lesson(20, 2)
    good = encode(sums(blocks, labels, numbers, np.arange(20)))
    bad = bytearray(good)
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(good) - 1))
        bad[at] ^= data.draw(st.integers(1, 255))
    else:
        bad = bad[: data.draw(st.integers(0, len(good) - 1))]
    with pytest.raises(UpdateError):
        read(bytes(bad))


def test_an_altered_file_is_called_so() -> None:
    blocks, labels, numbers = lesson(20, 2)
    good = encode(sums(blocks, labels, numbers, np.arange(20)))
    for bad in (good[:-1], good[:-1] + bytes([good[-1] ^ 1]), good[:8] + bytes(32) + good[40:]):
        with pytest.raises(UpdateError, match="altered or cut short"):
            read(bad)


def resealed(header: bytes, payload: bytes) -> bytes:
    body = len(header).to_bytes(4, "little") + header + payload
    return b"HRSTATS1" + hashlib.sha256(body).digest() + body


@pytest.mark.parametrize(
    ("header", "payload", "word"),
    [
        ('{"blocks":["B"],"cells":[["t","vector","",[0],1,1]],"format":1}', b"\0", "zeros"),
        ('{"blocks":["B"],"cells":[["t","vector","",[0],1,2]],"format":1}', b"\1\0", "canonical"),
        ('{"blocks":["B"],"cells":[["t","vector","",[0],1,3]],"format":1}', b"\1\0\0", "bytes a value"),
        ('{"blocks":["B"],"cells":[["t","vector","",[1],1,1]],"format":1}', b"\1", "names other blocks"),
        ('{"blocks":["B"],"cells":[["t","count","",[0],1,1]],"format":1}', b"\1", "names other blocks"),
        ('{"blocks":["B"],"cells":[["t","count","",[0,0],2,1]],"format":1}', b"\1\1", "2 values"),
        ('{"blocks":["B"],"cells":[["t","moment","",[0,0],2,1]],"format":1}', b"\1\1", "triangle"),
        ('{"blocks":["B"],"cells":[["t","vector","",[0],2,1]],"format":1}', b"\1", "not as long"),
        ('{"blocks":["B"],"cells":[["t","vector","",[0],1,1],["s","vector","",[0],1,1]],"format":1}', b"\1\1", "canon"),
        ('{"blocks":["B"],"cells":[["t","vector","",[0],1,1],["t","vector","",[0],1,1]],"format":1}', b"\1\1", "canon"),
        ('{"blocks":["B"],"cells":[["t","vector","",[0],1,8]],"format":1}', bytes(7) + b"\x40", "passes its limit"),
        ('{"blocks":["B"],"cells":[["t","vector","",[0],1,8]],"format":1}', bytes(7) + b"\x80", "passes its limit"),
        ('{"blocks":["B","C"],"cells":[["t","count","",[1,0],1,1]],"format":1}', b"\1", "names other blocks"),
        ('{"blocks":["B"],"cells":[],"format":1}', b"", "canonical"),
        ('{"blocks":[],"cells":[],"format":2}', b"", "format 2"),
        ('{"blocks":[],"cells":[],"format":1,"more":1}', b"", "unknown field"),
    ],
)
def test_other_forms_of_the_same_are_refused(header: str, payload: bytes, word: str) -> None:
    with pytest.raises(UpdateError, match=word):
        read(resealed(header.replace('"B"', f'"{WORD}"').replace('"C"', f'"{PICTURE}"').encode(), payload))


@pytest.mark.parametrize("length", [HEADER_LIMIT_BYTES + 1, 9])
def test_a_header_that_is_too_long_or_not_there_is_refused(length: int) -> None:
    body = length.to_bytes(4, "little") + bytes(8 if length == 9 else length)
    with pytest.raises(UpdateError, match="header is too long"):
        read(b"HRSTATS1" + hashlib.sha256(body).digest() + body)


@pytest.mark.parametrize("limit", ["LIMIT_BYTES", "HEADER_LIMIT_BYTES", "VALUES_LIMIT"])
def test_statistics_beyond_a_limit_are_not_written(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sums(*lesson(9, 1), np.arange(9))
    encode(whole)
    monkeypatch.setattr(encoding, limit, 5)
    with pytest.raises(UpdateError, match="too large"):
        encode(whole)


def test_a_part_beyond_the_limit_is_refused_although_the_sum_is_within() -> None:
    cell = Cell("t", "vector", "", (WORD,))
    low, high = (Statistics({cell: np.array([value])}) for value in (-CHANGE_LIMIT, CHANGE_LIMIT + 1))
    with pytest.raises(UpdateError, match="passes its limit"):
        add(low, high)


def test_statistics_are_bounded_before_they_are_read() -> None:
    with pytest.raises(UpdateError, match="allowed"):
        read(bytes(LIMIT_BYTES + 1))
    cells = ",".join(f'["t{i}","vector","",[0],{1 << 20},1]' for i in range(5))
    header = f'{{"blocks":["{WORD}"],"cells":[{cells}],"format":1}}'
    with pytest.raises(UpdateError, match="more than"):
        read(resealed(header.encode(), b""))
