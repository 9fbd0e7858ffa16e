"""Writes the starter bundle's calibration samples: drawings, words in three languages, sounds; none is in the lesson.

Run from the repository's root: python -m examples.starter.calibration FOLDER. `make starter` does.
"""

from __future__ import annotations

import sys
from pathlib import Path

from homeroom.quickstart.lesson import CALIBRATION, LANGUAGES, write_samples


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m examples.starter.calibration FOLDER")
    folder = Path(sys.argv[1])
    print(write_samples(folder, CALIBRATION, LANGUAGES))


if __name__ == "__main__":
    main()
