"""The device's part of secure aggregation, as pure functions: numpy, `cryptography` and `pycryptodome`, no network.

SecAgg+ (Bell et al. 2020) with the consistency check of Bonawitz et al. 2017; `docs/secure.md` is one page about it.
"""
