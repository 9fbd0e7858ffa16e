"""The frozen encoders that a recipe can name, one module a family; imports weights, torch and the contract."""
