"""From theta to answers and their explanations."""
