"""Quality of tokenizers and models, measured on real clips and on the rendered world."""
