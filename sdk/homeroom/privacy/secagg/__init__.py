"""Secure aggregation as pure functions: SecAgg+ (Bell et al. 2020) with the consistency check of Bonawitz et al. 2017.

`docs/secure.md` describes the protocol on one page.
"""
