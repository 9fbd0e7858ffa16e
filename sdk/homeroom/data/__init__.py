"""From a file to a checked sample: ingest, preprocessing, quality, task kinds."""
