"""The language model: a transformer from tokens to logits, with 3-axis rotary positions, ring cache and text prefix."""
