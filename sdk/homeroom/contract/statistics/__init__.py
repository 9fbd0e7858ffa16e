"""Statistics, the third contract: exact integer sums over samples that heads are solved from."""
