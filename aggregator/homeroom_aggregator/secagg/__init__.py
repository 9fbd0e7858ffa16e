"""The aggregator's part of secure aggregation: it passes sealed things on, and opens a sum, never a summand."""
