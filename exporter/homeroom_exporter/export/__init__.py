"""The export pipeline, its estimate, report and model card."""
