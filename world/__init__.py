"""A captioned world rendered from a seed: the data that the bundled model is trained on, and the judge of its clips."""
