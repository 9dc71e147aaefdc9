"""Generate, continue, stream, score and measure clips: the generator, its options, videos and sessions."""
