"""Speed: kernels, tokenizers and sampling, measured in turns beside the baselines of others."""
