"""Bundles from a folder, an http address or a model hub: fetched whole, verified, then put in place."""
