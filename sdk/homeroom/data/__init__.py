"""From a file to a checked sample."""
