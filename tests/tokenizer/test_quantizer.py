import pytest
import torch

from reelm.core.errors import ReelmError
from reelm.tokenizer.quantizer import Quantizer, QuantizerConfig

CONFIGS = [
    QuantizerConfig(kind="fsq", levels=(8, 5, 3)),
    QuantizerConfig(kind="vq", codebook_size=32, codebook_dim=4),
    QuantizerConfig(kind="lfq", codebook_size=64),
]


def make(config):
    torch.manual_seed(0)
    quantizer = Quantizer(config)
    if config.kind == "vq":  # its codebook starts at the first batch's clusters
        quantizer(torch.randn(4, 200, config.dim))
    return quantizer.eval()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_tokens_name_the_codes_that_training_saw(config):
    quantizer = make(config)
    latents = torch.randn(3, 50, config.dim) * 2
    codes, tokens, loss = quantizer(latents)
    assert codes.shape == latents.shape
    assert tokens.shape == (3, 50)
    assert tokens.dtype == torch.int64
    assert loss.shape == ()
    assert 0 <= tokens.min() <= tokens.max() < config.vocab_size
    assert torch.allclose(quantizer.codes(tokens), codes, atol=1e-5)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_gradients_pass_through(config):
    quantizer = make(config).train()
    latents = torch.randn(2, 10, config.dim, requires_grad=True)
    codes, _, loss = quantizer(latents)
    (codes.square().sum() + loss).backward()
    assert latents.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", ["vq", "lfq"])
def test_learned_quantizers_have_a_loss_of_their_own(kind):
    config = next(c for c in CONFIGS if c.kind == kind)
    quantizer = make(config).train()
    assert quantizer(torch.randn(2, 40, config.dim))[2] != 0


def test_fsq_reaches_every_token():
    config = QuantizerConfig(kind="fsq", levels=(8, 5, 3))
    tokens = make(config)(torch.randn(1, 50_000, 3) * 3)[1]
    assert tokens.unique().numel() == 120


@pytest.mark.parametrize("change", [
    {"kind": "pq"}, {"levels": ()}, {"levels": (1, 8)}, {"levels": (64, 64, 64, 64)}, {"codebook_size": 1},
    {"kind": "lfq", "codebook_size": 48}, {"codebook_dim": 0},
])  # fmt: skip
def test_sizes_that_cannot_be_are_refused(change):
    with pytest.raises(ReelmError, match=r"quantizer\."):
        QuantizerConfig(**change)
