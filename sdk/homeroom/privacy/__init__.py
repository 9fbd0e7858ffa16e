"""Privacy mechanisms as pure steps: discrete Gaussian noise, secure aggregation."""
