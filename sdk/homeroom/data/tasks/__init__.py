"""Task kinds: training targets and metrics."""
