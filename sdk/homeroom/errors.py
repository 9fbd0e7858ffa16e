"""The error tree: every error that a user of Homeroom can meet, with its exit code.

HomeroomError                 1   anything below
├── InputError                3   a sample, a label, a file or an argument that the user gave
├── BundleError               4   a bundle that is damaged, of another format, or fails its own golden samples
├── UpdateError               5   an update that cannot be made, or that the aggregator refuses (`.code` says why)
├── TrustError                6   a signature, key, fingerprint or certificate that does not hold
├── StoreError                7   the device's or the aggregator's own files: damaged, locked, read-only
│   └── DiskFullError         8   no space left; nothing was changed
├── TrainError                9   nothing to train on, or nothing that fits the budget
├── NetworkError             10   no connection, or an answer that cannot be used; try again later
├── RecipeError              11   a recipe, with the line at fault
├── ExportError              12   an export that failed its self-check or could not be built
└── MissingExtraError        13   a part of Homeroom that is not installed

The number is the exit code of the command line (2 is a wrong command line).
"""

from __future__ import annotations


class HomeroomError(Exception):
    """The base of all errors: what is wrong, where, and what to do next.

    what: one sentence.
    where: the file, field or row at fault.
    remedy: what the reader can do.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(what, where, remedy)
        self.what, self.where, self.remedy = what, where, remedy

    def __str__(self) -> str:
        message = f"{self.where}: {self.what}" if self.where else self.what
        return f"{message} ({self.remedy})" if self.remedy else message


class InputError(HomeroomError):
    exit_code = 3


class BundleError(HomeroomError):
    exit_code = 4


class UpdateError(HomeroomError):
    """`code` is the machine-readable reason, one word of `homeroom.contract.update.REFUSALS`."""

    exit_code = 5

    def __init__(self, what: str, *, code: str = "malformed", where: str = "", remedy: str = "") -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.code = code


class TrustError(HomeroomError):
    exit_code = 6


class StoreError(HomeroomError):
    exit_code = 7


class DiskFullError(StoreError):
    exit_code = 8


class TrainError(HomeroomError):
    exit_code = 9


class NetworkError(HomeroomError):
    exit_code = 10


class RecipeError(HomeroomError):
    exit_code = 11


class ExportError(HomeroomError):
    exit_code = 12


class MissingExtraError(HomeroomError):
    exit_code = 13
