"""Quality: tokenizers and models, measured on real clips, on the rendered world, and window after window."""
