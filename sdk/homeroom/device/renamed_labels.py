"""Labels of stored samples by the names that a newly installed bundle gives them."""

from __future__ import annotations

from collections.abc import Mapping

from homeroom.contract.manifest import Manifest
from homeroom.data.samples import Label, StoredSample
from homeroom.store import Store

Labels = Mapping[str, Label]


def rename_labels(store: Store, manifest: Manifest) -> None:
    """Gives each sample's labels their present names; its sums stay, and are read by these names. Inside a step."""

    def changed(sample: StoredSample) -> tuple[Labels, Labels] | None:
        labels = {task: _renamed(label, manifest.renamed.get(task, {})) for task, label in sample.labels.items()}
        return None if labels == sample.labels else (labels, sample.local_labels)

    if manifest.renamed:
        store.relabel_each(changed, same_meaning=True)


def _renamed(label: Label, names: Mapping[str, str]) -> Label:
    if isinstance(label, list):
        return [*sorted(names.get(str(one), str(one)) for one in label)] if names else label
    return names.get(str(label), label)
