"""The command line of the device; one module a group of commands."""
