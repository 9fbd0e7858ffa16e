"""Which stamps are taught and which are only tested: fixed before anything is trained, kept in splits.txt.

Stamps that share a caption in any language, or whose pictures look alike, stand in one group; a group is never split.
`python -m examples.vocabulary.splits` writes splits.txt anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from examples.vocabulary.stamps import NoStampsError, Stamp, fetch, read
from homeroom.data.preprocess.image import decode
from homeroom.errors import InputError

FILE = Path(__file__).with_name("splits.txt")
SEED = "vocabulary-1"
TEST = 0.25
LIKE = 6  # bits of a 64-bit perceptual hash in which near-duplicates may differ
LEAST = 20  # stamps of a category


@dataclass(frozen=True)
class Row:
    name: str
    group: str  # the first name of its group
    part: str  # train or test
    digest: str  # first 12 digits of the picture's SHA-256


def share(*parts: object) -> float:
    """A number in [0, 1) drawn by a hash, the same everywhere."""
    data = hashlib.sha256("/".join(map(str, (SEED, *parts))).encode()).digest()
    return int.from_bytes(data[:7], "big") / 2**56


def load() -> dict[str, Row]:
    return {row.name: row for row in (Row(*line.split("\t")) for line in FILE.read_text().splitlines())}


def lesson_stamps() -> list[tuple[Stamp, Row]]:
    """The stamps of the lesson with their row; NoStampsError if the pictures are not those that were split."""
    rows = load()
    found = [(stamp, rows[stamp.name]) for stamp in read(fetch()) if stamp.name in rows]
    differ = [stamp.name for stamp, row in found if _digest(stamp.picture) != row.digest]
    if differ or len(found) < len(rows):
        raise NoStampsError(
            f"{len(differ)} pictures differ from those in {FILE.name} and {len(rows) - len(found)} are missing"
        )
    return found


def groups(stamps: Sequence[Stamp], hashes: Sequence[int]) -> list[str]:
    """For each stamp the first name of its group: equal captions or like pictures, transitively."""
    parent = list(range(len(stamps)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[tuple[str, str], int] = {}
    for i, stamp in enumerate(stamps):
        for language, caption in stamp.captions.items():
            parent[root(i)] = root(first.setdefault((language, caption.casefold().rstrip(".!")), i))
        for j in range(i):
            if (hashes[i] ^ hashes[j]).bit_count() <= LIKE:
                parent[root(i)] = root(j)
    names: dict[int, str] = {}
    for i, stamp in enumerate(stamps):
        names[root(i)] = min(names.get(root(i), stamp.name), stamp.name)
    return [names[root(i)] for i in range(len(stamps))]


def make(stamps: Iterable[Stamp]) -> list[Row]:
    import imagehash

    usable, hashes = [], []
    for stamp in stamps:
        try:
            picture = decode(stamp.picture.read_bytes(), stamp.name)
        except InputError:
            continue
        usable.append(stamp)
        hashes.append(int(str(imagehash.phash(picture)), 16))
    many = {s.category for s in usable if sum(o.category == s.category for o in usable) >= LEAST}
    rows = []
    for stamp, group in zip(usable, groups(usable, hashes), strict=True):
        if stamp.category in many:
            part = "test" if share("test", group) < TEST else "train"
            rows.append(Row(stamp.name, group, part, _digest(stamp.picture)))
    return rows


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


if __name__ == "__main__":
    made = make(read(fetch()))
    FILE.write_text("".join(f"{r.name}\t{r.group}\t{r.part}\t{r.digest}\n" for r in made))
    print(
        f"{len(made)} stamps, {len({r.group for r in made})} groups, {sum(r.part == 'test' for r in made)} for the test"
    )
