"""One's own clips as training data: from a folder of files to indexed tar shards, and from those to batches."""
