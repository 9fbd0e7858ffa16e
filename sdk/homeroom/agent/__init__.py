"""The agent, `homeroom device run`: imports samples, trains in its hours, syncs when it can, and writes its status."""
