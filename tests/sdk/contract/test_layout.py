"""Theta and its table of segments."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from homeroom.contract.layout import Layout, Parameter, Segment

shapes = st.lists(st.integers(1, 5), min_size=0, max_size=3).map(tuple)
segments = st.lists(st.lists(shapes, min_size=1, max_size=3), min_size=1, max_size=6).map(
    lambda all_: Layout(
        tuple(
            Segment(
                name=f"s{i}",
                parameters=tuple(Parameter(f"p{j}", shape) for j, shape in enumerate(parts)),
                meaning="linear",
            )
            for i, parts in enumerate(all_)
        )
    )
)


@given(segments, st.randoms())
def test_splitting_and_joining_gives_theta_back(layout: Layout, random) -> None:
    theta = np.array([random.random() for _ in range(layout.size)], np.float32)
    parts = layout.split(theta)
    assert sum(len(part) for part in parts.values()) == layout.size
    assert np.array_equal(layout.join(parts, np.zeros(layout.size, np.float32)), theta)


@given(segments)
def test_appending_a_segment_moves_no_other(layout: Layout) -> None:
    grown = Layout((*layout.segments, Segment(name="new", parameters=(Parameter("w", (3,)),), meaning="linear")))
    assert all(grown.slices[name] == where for name, where in layout.slices.items())


def test_identity_is_what_a_segment_means_not_where_it_may_go() -> None:
    one = Segment(name="head.a", parameters=(Parameter("w", (2, 3)),), meaning="linear", reads=("f" * 64,))
    same = Segment(
        name="head.a", parameters=(Parameter("w", (2, 3)),), meaning="linear", reads=("f" * 64,), scope="personal"
    )
    assert one.segment_id == same.segment_id
    for other in (
        Segment(name="head.b", parameters=one.parameters, meaning="linear", reads=one.reads),
        Segment(name="head.a", parameters=(Parameter("w", (3, 2)),), meaning="linear", reads=one.reads),
        Segment(name="head.a", parameters=one.parameters, meaning="other", reads=one.reads),
        Segment(name="head.a", parameters=one.parameters, meaning="linear", reads=("e" * 64,)),
    ):
        assert other.segment_id != one.segment_id
