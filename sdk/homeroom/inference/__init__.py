"""Inference: from theta to answers and their explanations."""
