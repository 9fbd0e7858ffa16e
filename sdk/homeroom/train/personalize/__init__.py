"""One person's own theta from the shared one: a method a file, its paper in its first lines; `choose` decides.

A method is a function (person, own samples) -> theta float32 [P]. All train on cached features with the device's own
`fit`; none sees another person's samples.
"""

from homeroom.train.personalize.person import Method, Person

__all__ = ["Method", "Person"]
