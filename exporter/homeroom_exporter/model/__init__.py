"""The trainable model: design, forward pass, heads, losses, tiers."""
