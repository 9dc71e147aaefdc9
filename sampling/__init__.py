"""Tokens -> tokens and clip -> clip: sampling rules, the generator, continuation, streaming and the benchmark."""
