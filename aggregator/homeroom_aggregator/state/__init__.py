"""What the aggregator stores: log, members, audit, ledgers."""
