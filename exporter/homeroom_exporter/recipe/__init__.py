"""Reading and checking recipes."""
