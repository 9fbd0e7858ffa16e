"""Personalization: one person's own theta from the shared one, a method a file; `choose` decides between them.

A method is a function (person, own samples) -> theta float32 [P]. All train on cached features with the device's own
`fit`; none sees another person's samples.
"""
