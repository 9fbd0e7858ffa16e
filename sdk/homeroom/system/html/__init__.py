"""Pages: the base, the macros and the style sheet that every page shares, and their rendering."""
