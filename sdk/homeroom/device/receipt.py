"""The receipt of adding samples: what was taken, what was not and why, and what was understood otherwise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from homeroom.contract.manifest import AudioPreprocess, SequencePreprocess, TextPreprocess
from homeroom.data.consent import FORBIDDING, ConsentState
from homeroom.data.decoder import client
from homeroom.data.ingest import Intake, Problem
from homeroom.data.names import all_near_names
from homeroom.data.preprocess.media import heard_s
from homeroom.data.quality.text import language_doubt
from homeroom.data.samples import DEFAULT_SUBJECT, INTERACTION_LIMIT, StoredSample, group_key
from homeroom.runtime.bundle import Bundle
from homeroom.store.records import AddReport
from homeroom.store.store import Store
from homeroom.system.installation import quoted

APART = "this history does not go on from sample {}, by times or as its beginning: kept beside it"
REPLACES = "`homeroom device remove` takes that one, if this corrects it"
OLDEST_WENT = "of the oldest interactions went: a history holds the newest {limit:,}"
STALE_LABELS = "with labels that were corrected since: the corrected ones stay (`homeroom device page` changes them)"
OTHER_LABELS = "as samples held, with other labels: nobody is named, so both are kept (`homeroom device remove`)"

LANGUAGES_SAID = 3
UNDECIDED = "with words on consent that nobody has decided: trained on until then (`homeroom device consent DIR`)"


@dataclass(frozen=True)
class AddReceipt:
    """What became of samples that were given.

    sample_ids: of all that were taken, in their order. added, known: how many of them are new, and were there
    already just so.
    labelled: by task, how many have a label; of the others there are `len(sample_ids)` less.
    longer: by slot, how many inputs are longer than the model reads, which leaves out a part.
    quarantined: how many are set aside, whole or in part, by the reason.
    refused: rows that cannot be taken. read: files that were read; unread: files of a folder that were not, and why.
    corrected: how many of those that were there are other than before, by what changed.
    without_consent: how many are kept and never trained on, since consent is refused or withdrawn.
    group: the slots or columns that samples are held out whole by; grouped, groups: how many are, in how many groups.
    local_labels: how many have labels of this device alone, by "task: label"; they are among `labelled`.
    missing: cells that were taken as missing, by their text. notes: sentences about what was understood otherwise.
    """

    sample_ids: Sequence[str]
    added: int
    known: int
    labelled: Mapping[str, int]
    longer: Mapping[str, int]
    quarantined: Mapping[str, int]
    refused: Sequence[Problem] = ()
    read: Sequence[str] = ()
    unread: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, int] = field(default_factory=dict)
    corrected: Mapping[str, int] = field(default_factory=dict)
    without_consent: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()
    group: str = ""
    grouped: int = 0
    groups: int = 0
    local_labels: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Tally:
    """Counts samples as they pass."""

    bundle: Bundle
    labelled: Counter[str] = field(default_factory=Counter)
    longer: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)  # texts by what is said of those that the model hardly reads
    languages: Counter[str] = field(default_factory=Counter)  # samples with texts by what is said of their language
    subjects: set[str] = field(default_factory=set)
    nobody: int = 0  # samples that name no subject
    undecided: int = 0  # samples with words on consent alone
    allowing: set[str] = field(default_factory=set)  # people of whom a sample does not refuse or withdraw it
    local: Counter[str] = field(default_factory=Counter)  # samples by labels of this device, "task: label"
    grouped: Counter[str] = field(default_factory=Counter)  # samples by their group

    def of(self, samples: Iterable[StoredSample]) -> Iterator[StoredSample]:
        """Yields the samples, counted."""
        for sample in samples:
            self.labelled.update(sample.every_label.keys())
            self.local.update(f"{task}: {label}" for task, label in sample.local_labels.items())
            self.nobody += sample.subject == DEFAULT_SUBJECT
            self.subjects |= {sample.subject, *([sample.author] if sample.author else [])}
            self.grouped.update(filter(None, [group_key(sample)]))
            self.undecided += bool(sample.consent and sample.consent.is_undecided)
            self.allowing |= set() if sample.consent_state in FORBIDDING else {sample.subject}
            pairs = [(slot, value) for slot, values in sample.inputs.items() for value in values]
            self.longer.update(slot for slot, value in pairs if self._is_longer(slot, value))
            self.unknown.update(filter(None, (self._unknown(slot, value) for slot, value in pairs)))
            self.languages.update(filter(None, [self._language_doubt(sample)]))
            yield sample

    def _language_doubt(self, sample: StoredSample) -> str:
        """Says so where the model does not read the language that a sample with texts states, or nobody knows it."""
        manifest = self.bundle.manifest
        modalities = (manifest.modality(manifest.slot(slot).modality) for slot in sample.inputs)
        texts = next((one for one in modalities if isinstance(one.preprocess, TextPreprocess)), None)
        return language_doubt(sample.language, texts.known_languages) if texts and sample.language else ""

    def _unknown(self, slot: str, value: object) -> str:
        """Says so where the model hardly reads a text."""
        if not isinstance(value, str):
            return ""
        from homeroom.data.preprocess.text import unknown_words

        modality = self.bundle.manifest.modality(self.bundle.manifest.slot(slot).modality)
        said = unknown_words(modality, value, self.bundle.file)
        return said and f"{slot}: {said}"

    def _is_longer(self, slot: str, value: object) -> bool:
        """Whether a text, a sequence or a sound is longer than the model reads."""
        manifest = self.bundle.manifest
        modality = manifest.modality(next(one.modality for one in manifest.slots if one.name == slot))
        limit, spec = modality.buckets[-1], modality.preprocess
        if isinstance(spec, AudioPreprocess) and isinstance(value, bytes):
            return client.run(heard_s, spec, value)[2] > spec.samples / spec.rate
        if isinstance(spec, SequencePreprocess):
            return isinstance(value, list) and len(value) > limit
        if not isinstance(spec, TextPreprocess) or not isinstance(value, str) or len(value) < limit // 2:
            return False
        from homeroom.data.preprocess.text import is_longer

        return is_longer(self.bundle.file(spec.tokenizer), value, limit, spec.version)


def _counts(states: Counter[ConsentState], of: Sequence[ConsentState]) -> str:
    return " and ".join(f"{state} for {states[state]:,}" for state in of if states[state])


def write_receipt(
    store: Store, sample_ids: Sequence[str], before: int, tally: Tally, intake: Intake, changes: AddReport
) -> AddReceipt:
    """The receipt of samples that were just stored.

    before: the number of samples in the store until then. changes: what was corrected.
    """
    added, ids, held = store.count() - before, set(sample_ids), store.subjects()
    if tally.nobody and tally.subjects > {DEFAULT_SUBJECT}:
        intake.note(f"{tally.nobody:,} of {len(sample_ids):,} name no subject: held as {DEFAULT_SUBJECT}")
    if changes.continued:
        intake.note(f"{changes.continued:,} histories that were held went on, by {changes.interactions:,} interactions")
    if changes.cut:
        intake.note(f"{changes.cut:,} {OLDEST_WENT.format(limit=INTERACTION_LIMIT)}")
    for name, sample_id in changes.apart.items():
        intake.note(f"{name}: {APART.format(sample_id[:8])} ({REPLACES})")
    if changes.stale_labels:
        intake.note(f"{changes.stale_labels:,} {STALE_LABELS}")
    if changes.other_labels:
        intake.note(f"{changes.other_labels:,} {OTHER_LABELS}")
    if tally.undecided:
        intake.note(f"{tally.undecided:,} {UNDECIDED}")
    for name, states in store.consent_states(sorted(tally.allowing - {DEFAULT_SUBJECT})).items():
        denied, rest = (_counts(states, of) for of in (FORBIDDING, ("given", "unstated")))
        if denied and rest:
            what = f"{name}: consent is {denied}; {rest}, which is trained on"
            intake.note(f"{what}: `homeroom device consent DIR --subject {quoted(name)}` decides for all")
    for said, number in tally.unknown.items():
        intake.note(f"{number:,} of {said}")
    for said, number in tally.languages.most_common(LANGUAGES_SAID):
        intake.note(f"{number:,} of {len(sample_ids):,} are {said}")
    if len(tally.languages) > LANGUAGES_SAID:
        intake.note(f"{len(tally.languages) - LANGUAGES_SAID:,} more languages are not known here, or not read")
    all_near = all_near_names(held)
    for name in sorted(tally.subjects & all_near.keys()):
        intake.note(f"{name}: also held: {', '.join(all_near[name])}")
    denials = sum(store.consent_states(tally.subjects, ids).values(), Counter[str]())
    aside = Counter(sample.aside for sample in store.quarantined() if sample.sample_id in ids)
    return AddReceipt(
        sample_ids=sample_ids,
        added=added,
        known=len(sample_ids) - added - changes.corrected_samples - changes.continued,
        labelled={task.name: tally.labelled[task.name] for task in tally.bundle.manifest.tasks},
        longer=dict(tally.longer),
        quarantined=dict(aside.most_common()),
        refused=intake.problems,
        read=sorted(map(str, intake.read)),
        unread=intake.unread,
        missing=dict(intake.missing),
        corrected=dict(changes.corrected.most_common()),
        without_consent={state: denials[state] for state in FORBIDDING if denials[state]},
        notes=intake.notes,
        group=" and ".join(sorted({key.rpartition(":")[0] for key in tally.grouped})),
        grouped=tally.grouped.total(),
        groups=len(tally.grouped),
        local_labels=dict(tally.local),
    )
