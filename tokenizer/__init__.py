"""Clip <-> tokens: causal 3-D convolutions, a quantizer, streaming encode and decode, training, and clip files."""
