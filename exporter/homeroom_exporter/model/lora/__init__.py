"""LoRA inside a frozen transformer: architectures, frozen weights, factors, and a hand-written backward pass."""
