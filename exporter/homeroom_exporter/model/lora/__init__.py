"""LoRA inside a frozen transformer: its shape, its frozen weights, its factors, and a backward pass written by hand."""
