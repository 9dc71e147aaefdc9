"""The product, clip -> clip: the generator, its options, videos, sessions, scores and drift."""
