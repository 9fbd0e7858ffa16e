"""Examples packed into batches: nothing lost, nothing invented, subjects whole."""

from dataclasses import replace

import numpy as np
import pytest

from homeroom.train.features.dataset import Dataset, needs_all
from sdk.learning import dataset, opened, without


def test_every_example_is_in_one_batch_and_padding_is_absent() -> None:
    data, (_, graphs) = dataset(), opened()
    seen: list[int] = []
    for batch in data.plan(graphs.steps("grad"), np.random.default_rng(0)):
        feeds = data.feeds(batch)
        seen += [int(row) for row in batch.pack.rows[batch.positions]]
        for tensor in batch.graph.inputs:
            if tensor.name in feeds:
                assert feeds[tensor.name].shape == tensor.shape
                if tensor.name != "theta":
                    assert not feeds[tensor.name][len(batch.positions) :].any()
    assert sorted(seen) == list(range(len(data)))


def test_features_arrive_where_the_manifest_says() -> None:
    data, (_, graphs) = dataset(12), opened()
    for batch in data.plan(graphs.steps("predict")):
        feeds = data.feeds(batch)
        for position, row in enumerate(batch.pack.rows[batch.positions]):
            for (slot, slot_index), array in data.examples[row].inputs.items():
                n = array.shape[1]
                assert np.array_equal(feeds[f"{slot}.features"][position, slot_index, :, :n], array)
                assert feeds[f"{slot}.mask"][position, slot_index].sum() == n


def test_a_split_keeps_subjects_whole_and_is_the_same_again() -> None:
    data = dataset()
    train, validation = data.split(0.25, seed=3)
    assert validation is not None
    assert not {e.subject for e in train.examples} & {e.subject for e in validation.examples}
    assert len(train) + len(validation) == len(data)
    again = data.split(0.25, seed=3)[1]
    assert again is not None
    assert [id(e) for e in validation.examples] == [id(e) for e in again.examples]


def test_too_few_examples_are_not_split() -> None:
    data = dataset(6)
    assert data.split(0.2, seed=0)[1] is None


def test_a_modality_that_is_absent_teaches_nothing() -> None:
    data = dataset()
    silent = Dataset(data.manifest, [without(e, "speech") for e in data.examples])
    counts = silent.examples_by_segment()
    assert counts["ladder.audio"] == 0
    assert counts["ladder.text"] > 0
    assert data.examples_by_segment()["ladder.audio"] > 0


@pytest.mark.parametrize("task", ["grade", "which_picture", "same"])
def test_a_task_that_compares_needs_all_it_compares(task: str) -> None:
    manifest = opened()[0].manifest
    assert needs_all(manifest.task(task), manifest)
    data = dataset(20)
    blind = Dataset(manifest, [without(e, manifest.task(task).reads[-1]) for e in data.examples])
    assert not blind.labelled[:, [t.name for t in manifest.tasks].index(task)].any()


def test_tokens_with_a_target_are_counted_as_one_whatever_their_width() -> None:
    data = dataset(3)
    task = data.manifest.tasks[0]
    wide = np.array([[0, 1, 1], [0, 0, 0], [1, 0, 0]], np.float32)
    for targets, count in ((wide, 2), (np.array([0, 7, -2, 0, -1], np.float32), 3), (None, 0)):
        found = {} if targets is None else {task.name: targets}
        one = Dataset(data.manifest, [replace(data.examples[0], targets=found)])
        assert one.compared_tokens(task).tolist() == [count]
