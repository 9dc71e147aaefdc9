"""The video tokenizer: clips to tokens and back by causal 3-D convolutions and a quantizer, at once or as a stream."""
