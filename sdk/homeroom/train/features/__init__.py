"""Features of samples: computed once, cached, packed into batches."""
