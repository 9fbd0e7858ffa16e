"""The exporter: torch lives here and only here."""
