"""Names that may be the same person's."""

from __future__ import annotations

import pytest

from homeroom.data.names import all_near_names, near_names


@pytest.mark.parametrize(
    "names",
    [
        ("p-1", "P-1", "p1", "p_1", "p 01", "P.1", "p\u20131"),
        ("7", "07", "7.0", "7,00"),
        ("Jos\u00e9", "Jose", "JOSE\u0301"),
        ("M\u00fcller", "Mueller", "muller"),
        ("Ray, Ann", "Ann Ray", "ANN-RAY"),
        ("O'Neil", "O\u2019Neil", "oneil"),
        ("\u0130pek", "ipek", "Ipek", "\u0131pek"),
    ],
)
def test_near_names_are_those_that_a_person_writes_one_for_the_other(names: tuple[str, ...]) -> None:
    apart = ("p-10", "1-11", "11-1", "7.5", "75", "Josef", "\u0930\u093e\u092e", "\u0930\u092e\u093e", "\u2026")
    every = (*names, *apart)
    for name in names:
        assert near_names(name, every) == [other for other in names if other != name]
    assert all_near_names(every) == {name: near_names(name, every) for name in names}
