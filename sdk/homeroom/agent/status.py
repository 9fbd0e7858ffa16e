"""The agent's status, and the lines that tell it to people.

It goes into logs, the page and support bundles: counts, times and kinds of problems; no pupil, file name or label.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from homeroom import errors
from homeroom.errors import HomeroomError
from homeroom.system.files import read_small, write_durable
from homeroom.system.printable import counted

AGENT_FOLDER = "agent"
STATUS_FILE = "status.json"
RESTING = "resting"  # what the agent is doing between two looks
DISK_CODES = frozenset({errors.DiskFullError.code, errors.Code.LOW_DISK})
BUNDLE_CODES = frozenset({errors.Code.OTHER_BUNDLE, errors.Code.BUNDLE_NOT_OFFERED})
ERRORS_WITHOUT_NAMES = (
    errors.NetworkError,
    errors.StoreError,
    errors.TrainError,
    errors.TrustError,
    errors.UpdateError,
    errors.MissingExtraError,
)


class AgentStatus(msgspec.Struct, frozen=True, kw_only=True):
    """`doing`: at this moment. `problems`: the last error by area, until the area succeeds; `problem_codes`: its code.

    Times are UTC, ISO 8601.
    """

    doing: str = "starting"
    at: str = ""
    bundle: str = ""
    samples: int = 0
    unlabelled: int = 0
    consent_to_decide: int = 0
    updates_waiting: int = 0
    joined: bool = False
    global_version: int = 0
    next_version: str | None = None  # how many of its updates are here, where the aggregator tells
    refused_entries: int = 0  # that lie in the inbox's folder refused/
    unread_entries: int = 0
    waiting_entries: int = 0  # invitations and policies in the inbox, for a person's yes
    last_seen: str | None = None  # when the aggregator last answered
    last_trained: str | None = None
    trained_samples: int = 0
    fitted: str = ""  # from how many samples the theta that answers was fitted
    solved: list[str] = []  # how solved heads answer, a line a task
    worse: list[str] = []  # what the model in use answers clearly worse than something else here
    rolled_back: int = 0
    training_waits: str = ""
    clock: str | None = None
    edited: str = ""
    damage: int = 0
    problems: dict[str, str] = {}
    problem_codes: dict[str, str] = {}


def status_lines(status: AgentStatus) -> list[tuple[str, str]]:
    """(keyword, explanation) of what the status says, the most urgent first."""
    lines: list[tuple[str, str]] = []
    codes = status.problem_codes
    if not DISK_CODES.isdisjoint(codes.values()):
        lines.append(("disk full", "nothing more is taken in or learned until some space is free"))
    if status.edited:
        remedy = "if a copy was put back on purpose: homeroom device accept-restored"
        lines.append(("edited", f"{status.edited}; nothing is sent ({remedy})"))
    if status.clock:
        lines.append(("clock wrong", status.clock))
    if not BUNDLE_CODES.isdisjoint(codes.values()):
        lines.append(("bundle too old", "the aggregator works with another bundle: put the new one into the inbox"))
    if status.doing != RESTING:
        lines.append((status.doing, "at this moment"))
    if status.training_waits:
        lines.append(("waiting to train", status.training_waits))
    if status.updates_waiting:
        lines.append(("queued", f"{counted(status.updates_waiting, 'update')} to be sent"))
    if not status.joined:
        lines.append(("not joined", "what is learned stays here; to share it, join with an invitation"))
    elif status.last_seen is None:
        lines.append(("never seen", "the aggregator has not answered yet"))
    else:
        lines.append((f"last seen {status.last_seen}", "when the aggregator last answered"))
    if status.next_version:
        lines.append(("next version", status.next_version))
    lines += [("fitted", status.fitted)] if status.fitted else []
    lines += [("answers", line) for line in status.solved] + [("worse here", line) for line in status.worse]
    lines += _waiting_lines(status)
    if status.rolled_back:
        lines.append(("rolled back", f"{counted(status.rolled_back, 'model')} left out of use, being clearly worse"))
    told = DISK_CODES | BUNDLE_CODES  # by lines of their own
    return lines + [(f"{area} trouble", text) for area, text in status.problems.items() if codes.get(area) not in told]


def _waiting_lines(status: AgentStatus) -> list[tuple[str, str]]:
    """What waits for a person."""
    lines: list[tuple[str, str]] = []
    if status.waiting_entries:
        how = "accept it on the page, or with `homeroom device join` or `policy` and the file"
        lines.append(
            ("waits for a yes", f"{entries(status.waiting_entries)} in the inbox, an invitation or a policy: {how}")
        )
    if status.consent_to_decide:
        told_once = "the page and `homeroom device consent DIR` list their words once, to be decided"
        lines.append(("consent", f"of {counted(status.consent_to_decide, 'sample')} is in words alone: {told_once}"))
    if status.unread_entries:
        lines.append(("not read", f"{entries(status.unread_entries)} in the inbox: the page names them, and why"))
    if status.refused_entries:
        lines.append(
            ("refused", f"{entries(status.refused_entries)} of the inbox: the reasons lie in its folder refused/")
        )
    return lines


def entries(number: int) -> str:
    return counted(number, "entry", "entries")


def describe_error(problem: Exception) -> str:
    """Describes an error for logs: its sentence where it cannot name a pupil or a file, else its kind."""
    if isinstance(problem, ERRORS_WITHOUT_NAMES):
        return str(problem.what)
    if isinstance(problem, HomeroomError):
        return f"{type(problem).__name__}: the sentence may name files or pupils and is not written here"
    return f"an error of the program: {type(problem).__name__}"


def write_status(directory: Path, status: AgentStatus) -> None:
    """Writes the status durably into a device directory."""
    write_durable(directory / AGENT_FOLDER / STATUS_FILE, msgspec.json.encode(status))


def clear_edited(directory: Path) -> None:
    """Takes from the status what was noticed of edits, once the store is accepted as it is."""
    if (written := read_status(directory)) and written.edited:
        write_status(directory, msgspec.structs.replace(written, edited=""))


def read_status(directory: Path) -> AgentStatus | None:
    """The status that the agent of a directory wrote last; None if there is none."""
    try:
        return msgspec.json.decode(read_small(directory / AGENT_FOLDER / STATUS_FILE), type=AgentStatus)
    except (OSError, msgspec.DecodeError):
        return None
