"""Tokens -> logits: the transformer, its 3-axis rotary positions, ring cache, text prefix and training."""
