"""The decoder: one child process that decodes files from outside, within bounds of memory and time."""
