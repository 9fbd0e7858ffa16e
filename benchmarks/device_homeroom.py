"""The homeroom worker of `benchmarks/device.py`: a device that grades short answers, without torch.

Its first run in a folder starts from raw text; a second run finds the features cached. Training, validation and test
answers are all samples of the device; the test's labels are not given to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from peers.data import LABELS, Answer, Split, macro_f1, split
from peers.measure import Clock, arguments, report

if TYPE_CHECKING:
    from homeroom import Device, Sample
    from homeroom.train.features.dataset import Dataset

TASK = "grade"
PARTS = ("train", "validation", "test")


def samples(part: Sequence[Answer], name: str) -> list[Sample]:
    """Each with a source of its own: two pupils may give the same answer, and a device stores no sample twice."""
    from homeroom import Sample

    return [
        Sample(
            reference=a.reference,
            answer=a.answer,
            labels={TASK: a.label} if name != "test" else {},
            source=f"{name}-{number}",
        )
        for number, a in enumerate(part)
    ]


@contextmanager
def load(bundle: Path, work: Path, answers: Split, clock: Clock) -> Iterator[tuple[Device, dict[str, Dataset]]]:
    """The device in `work`, filled the first time, and its datasets; features come from the cache where they are."""
    from homeroom import Device
    from homeroom.train.features.dataset import Dataset
    from homeroom.train.features.examples import examples

    with Device.open(work, bundle=bundle) as device:
        clock.mark("opened")
        if not device.store.count():
            device.add(*(sample for name in PARTS for sample in samples(getattr(answers, name), name)), gates=False)
        clock.mark("added")
        stored = list(device.store.each_sample())
        ready = examples(device.store, device.bundle, device.graphs, stored)
        clock.mark("features")
        yield (
            device,
            {
                part: Dataset(
                    device.bundle.manifest,
                    [e for e, s in zip(ready, stored, strict=True) if str(s.source).startswith(part)],
                )
                for part in PARTS
            },
        )


def main() -> None:
    clock = Clock()
    parser = arguments(__doc__ or "")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="the device's directory")
    args = parser.parse_args()

    from homeroom.train.evaluate import outputs_of
    from homeroom.train.fit import fit
    from homeroom.train.settings import advised

    clock.mark("imports")
    answers = split(args.data, args.corpus, args.seed)
    with load(args.bundle, args.work, answers, clock) as (device, parts):
        settings = advised(device.bundle.manifest, seed=args.seed)
        found = fit(device.graphs, parts["train"], parts["validation"], device.bundle.theta(), settings)
        clock.mark("trained")
        outputs = outputs_of(device.graphs, parts["test"], found.theta)[TASK]
    names = [LABELS[i] for i in outputs.argmax(1)]
    report(
        args.out,
        clock,
        predictions=names,
        macro_f1=macro_f1([a.label for a in answers.test], names),
        validation=[epoch.value for epoch in found.history],
        best_epoch=found.best_epoch,
        epochs=len(found.history),
        steps=found.steps,
        fit_seconds=found.seconds,
    )


if __name__ == "__main__":
    main()
