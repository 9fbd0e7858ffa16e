"""The bundle's files: golden samples, canonical writing, scratch folders."""
