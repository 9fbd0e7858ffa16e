"""The error tree: every error that a user of Homeroom can meet, with its exit code and its code.

HomeroomError                 1  error           anything below
├── InputError                3  input           a sample, a label, a file or an argument that the user gave
├── BundleError               4  bundle          damaged, of another format, or fails its own golden samples
│   └── FallbackNeededError   4  fallback_needed  this machine needs the float32 backbones of a bundle's second file
├── UpdateError               5  malformed       an update that cannot be made, or that the aggregator refuses
├── TrustError                6  trust           a signature, key, fingerprint or certificate that does not hold
├── StoreError                7  store           the device's or the aggregator's own files: locked, read-only
│   ├── DamagedError          7  damaged         a database that is not valid any more
│   ├── BrokenSealError       7  broken_seal     a sealed value that was altered, moved, or has another key
│   ├── KeyGoneError          7  key_gone        the master key of a store is not in the key ring any more
│   ├── EditedError           7  edited          rows were edited without the key, or an older copy was put back
│   └── DiskFullError         8  disk_full       no space left; nothing was changed
├── TrainError                9  train           nothing to train on, or nothing that fits the budget
├── NetworkError             10  network         no connection, or an answer that cannot be used; try again later
│   └── AnswerError          14  unverified      an answer that the aggregator's key did not sign for this request
├── RecipeError              11  recipe          a recipe, with the line at fault
├── ExportError              12  export          an export that failed its self-check or could not be built
└── MissingExtraError        13  missing_extra   a part of Homeroom that is not installed

The number is the exit code of the command line (2 is a wrong command line). The word is `code`, for programs to tell
errors apart: a message is for people only. `Code` has the narrower ones, `homeroom.contract.update.REFUSALS` those of
an UpdateError.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any


class Code(StrEnum):
    """Codes that say more than the error's class."""

    NO_LABELS = "no_labels"  # no sample here has a label yet
    NOT_NOW = "not_now"  # battery, temperature or quiet hours let no training begin
    LOW_DISK = "low_disk"  # less of the disk is free than the budget leaves
    UNREADABLE_RECORD = "unreadable_record"  # a record of the device's state, as a newer version writes it
    IN_USE = "in_use"  # another process has the file or directory
    CLOSED = "closed"  # a device that is used after it was closed
    REFUSED = "refused"  # the aggregator refused an update of a sync, whose report says why
    OTHER_BUNDLE = "other_bundle"  # the aggregator works with another bundle than this device
    NOT_ALLOWED = "not_allowed"  # the role of whoever asks does not have the right
    UNKNOWN_SCHOOL = "unknown_school"  # nobody was invited for a school of that name
    UNKNOWN_DEVICE = "unknown_device"  # no such key is enrolled
    TOO_LARGE = "too_large"  # a file that would decode to more than is allowed
    DECODER = "decoder"  # a file that ended the process that decodes files, or took too long or too much of it
    UNSIGNED_ANSWER = "unsigned_answer"  # an aggregator older than this device, or another machine in its place
    TLS_ONLY = "tls_only"  # an address without TLS, on a device that joined by https
    OTHER_TLS_KEY = "other_tls_key"  # a server that has another TLS key than the aggregator
    BUNDLE_NOT_OFFERED = "bundle_not_offered"  # the aggregator does not hand out its bundle


class HomeroomError(Exception):
    """The base of all errors: what is wrong, where, and what to do next.

    what: one sentence.
    code: for programs; by default that of the class.
    where: the file, field or row at fault.
    remedy: what the reader can do.
    details: a sentence each, where more than one thing is wrong.
    """

    exit_code = 1
    code: str = "error"

    def __init__(
        self, what: str, *, code: str = "", where: str = "", remedy: str = "", details: Iterable[str] = ()
    ) -> None:
        super().__init__(what, where, remedy)
        self.what, self.where, self.remedy, self.details = what, where, remedy, tuple(details)
        self.code = code or type(self).code

    def __str__(self) -> str:
        message = "; ".join((f"{self.where}: {self.what}" if self.where else self.what, *self.details))
        return f"{message} ({self.remedy})" if self.remedy else message


class InputError(HomeroomError):
    exit_code, code = 3, "input"


class BundleError(HomeroomError):
    exit_code, code = 4, "bundle"


class FallbackNeededError(BundleError):
    """Backbones of a bundle's second file are needed, `graphs` of its manifest, and it is not there."""

    code = "fallback_needed"

    def __init__(self, what: str, graphs: tuple[Any, ...], *, where: str, remedy: str) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.graphs = graphs


class UpdateError(HomeroomError):
    """`code` is a word of `homeroom.contract.update.REFUSALS`."""

    exit_code, code = 5, "malformed"


class TrustError(HomeroomError):
    exit_code, code = 6, "trust"


class StoreError(HomeroomError):
    exit_code, code = 7, "store"


class DamagedError(StoreError):
    """The file is not a valid SQLite database any more; the next opening repairs it."""

    code = "damaged"

    def __init__(self, what: str) -> None:
        super().__init__(what, where="device.db", remedy="open the directory again: it is then repaired from its copy")


class BrokenSealError(StoreError):
    """A sealed value was altered, moved, or sealed with another key; the next opening repairs it."""

    code = "broken_seal"

    def __init__(self, associated_data: str) -> None:
        super().__init__(
            f"{associated_data} does not open: it was altered", remedy="open the directory again to repair it"
        )


class KeyGoneError(StoreError):
    """The key ring no longer has the master key that this device.db was sealed with."""

    code = "key_gone"


class EditedError(StoreError):
    """The store was edited without its key; nothing is sent until someone accepts it as it is."""

    code = "edited"

    def __init__(self, what: str, where: str) -> None:
        remedy = "if you put a copy back yourself: homeroom device accept-restored DIRECTORY"
        super().__init__(f"{what}; nothing is sent", where=where, remedy=remedy)


class DiskFullError(StoreError):
    exit_code, code = 8, "disk_full"


class TrainError(HomeroomError):
    exit_code, code = 9, "train"


class NetworkError(HomeroomError):
    exit_code, code = 10, "network"


class AnswerError(NetworkError):
    """The aggregator's key did not sign the answer for this request; nothing in it was believed, all is kept."""

    exit_code, code = 14, "unverified"


class RecipeError(HomeroomError):
    exit_code, code = 11, "recipe"


class ExportError(HomeroomError):
    exit_code, code = 12, "export"


class MissingExtraError(HomeroomError):
    exit_code, code = 13, "missing_extra"


class SignalError(Exception):
    """The base of signals: the caller inside the house catches each one, so that no user meets it."""
