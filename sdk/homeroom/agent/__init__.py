"""The agent, `homeroom device run`: takes in, trains in its hours, syncs when it can, and says how it stands."""
