"""How the agent stands, in a few words that anyone can act on; imports system and durable.

What is written here goes into logs, the page and support bundles: counts, times and kinds of problems, nothing about a
pupil, no file name, no label.
"""

from __future__ import annotations

import datetime
from pathlib import Path

import msgspec

from homeroom import errors
from homeroom.errors import HomeroomError
from homeroom.system.files import write_durable

AGENT_FOLDER = "agent"
STATUS_FILE = "status.json"
OLD_BUNDLE_PHRASES = ("another bundle", "does not hand out its bundle")  # in what `sync` and `follow_bundle` say
ERRORS_WITHOUT_NAMES = (
    errors.NetworkError,
    errors.StoreError,
    errors.TrainError,
    errors.TrustError,
    errors.UpdateError,
    errors.MissingExtraError,
)


class AgentStatus(msgspec.Struct, frozen=True, kw_only=True):
    """`doing`: at this moment. `problems`: what went wrong last, by area, until it goes right. Times are UTC."""

    doing: str = "starting"
    at: str = ""
    bundle: str = ""
    samples: int = 0
    unlabelled: int = 0
    updates_waiting: int = 0
    joined: bool = False
    global_version: int = 0
    refused_entries: int = 0
    last_seen: str | None = None  # when the aggregator last answered
    last_trained: str | None = None
    trained_samples: int = 0
    rolled_back: int = 0
    training_waits: str = ""
    clock: str | None = None
    damage: int = 0
    problems: dict[str, str] = {}


def status_lines(standing: AgentStatus) -> list[tuple[str, str]]:
    """(word, what it means now), the most urgent first."""
    found: list[tuple[str, str]] = []
    problems = standing.problems
    if any("no space" in text or "of disk are free" in text for text in problems.values()):
        found.append(("disk full", "nothing more is taken in or learned until some space is free"))
    if standing.clock:
        found.append(("clock wrong", standing.clock))
    if any(text in said for said in problems.values() for text in OLD_BUNDLE_PHRASES):
        found.append(("bundle too old", "the aggregator works with another bundle: put the new one into the inbox"))
    if standing.doing != "resting":
        found.append((standing.doing, "at this moment"))
    if standing.training_waits:
        found.append(("waiting to train", standing.training_waits))
    if standing.updates_waiting:
        found.append(("queued", f"{standing.updates_waiting} updates wait to be sent"))
    if not standing.joined:
        found.append(("not joined", "what is learned stays here; put an invitation.json into the inbox to share it"))
    elif standing.last_seen is None:
        found.append(("never seen", "the aggregator has not answered yet"))
    else:
        found.append((f"last seen {standing.last_seen}", "when the aggregator last answered"))
    if standing.refused_entries:
        found.append(
            ("refused", f"{standing.refused_entries} entries of the inbox: the reasons lie in its folder refused/")
        )
    if standing.rolled_back:
        found.append(("rolled back", f"{standing.rolled_back} models that were clearly worse are not in use"))
    known = {"disk full", "bundle too old"} & {word for word, _ in found}
    found += [(f"{area} trouble", text) for area, text in problems.items() if not (known and _has_own_line(text))]
    return found


def _has_own_line(text: str) -> bool:
    return any(part in text for part in ("no space", "of disk are free", *OLD_BUNDLE_PHRASES))


def describe_error(problem: Exception) -> str:
    """What may be written down of an error: its sentence where it cannot name a pupil or a file, else its kind."""
    if isinstance(problem, ERRORS_WITHOUT_NAMES):
        return str(problem.what)
    if isinstance(problem, HomeroomError):
        return f"{type(problem).__name__}: the sentence may name files or pupils and is not written here"
    return f"an error of the program: {type(problem).__name__}"


def utc_now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def write_status(directory: Path, standing: AgentStatus) -> None:
    write_durable(directory / AGENT_FOLDER / STATUS_FILE, msgspec.json.encode(standing))


def read_status(directory: Path) -> AgentStatus | None:
    """What the agent of a directory last wrote, or None."""
    try:
        return msgspec.json.decode((directory / AGENT_FOLDER / STATUS_FILE).read_bytes(), type=AgentStatus)
    except (OSError, msgspec.DecodeError):
        return None
