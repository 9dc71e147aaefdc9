"""Speed benchmarks: kernels, tokenizers and sampling, each compared with baselines in interleaved rounds."""
