"""The device: the facade, and what it plans, checks and reports."""
