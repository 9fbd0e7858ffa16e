"""Newcomers: each role of a new user, from the docs' own blocks in an environment of its own (`make newcomer`)."""
