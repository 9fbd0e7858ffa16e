"""The starter bundle of `homeroom quickstart`: its recipe and its calibration samples."""
