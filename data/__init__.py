"""Your own clips as training data: a folder of files becomes indexed tar shards, and the shards become batches."""
