"""Self-checks of an export."""
