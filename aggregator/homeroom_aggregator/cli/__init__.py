"""The aggregator's commands; one module a group."""
