"""The aggregator: merges what devices send; never imports torch."""
