import sys

import pytest
import torch
from vector_quantize_pytorch import FSQ

from reelm.core.checkpoint import load_weights, save_tensors
from reelm.core.errors import ReelmError
from reelm.tokenizer.quantizer import Quantizer, QuantizerConfig, spread_loss

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


def library_of(quantizer):
    """The library's quantizer, which has computed the last step of training."""
    return quantizer._library[0].eval()


LARGE = [
    QuantizerConfig(levels=(8, 8, 8, 8)), QuantizerConfig(levels=(8, 5, 3)), QuantizerConfig(levels=(1000,)),
    QuantizerConfig(levels=(3, 4, 7, 26)), QuantizerConfig(kind="lfq", codebook_size=2),
    QuantizerConfig(kind="lfq", codebook_size=64), QuantizerConfig(kind="lfq", codebook_size=2**16),
    *(QuantizerConfig(kind="vq", codebook_size=size, codebook_dim=dim) for size, dim in ((32, 4), (300, 8), (1500, 3))),
]  # fmt: skip


@pytest.mark.parametrize("config", LARGE, ids=str)
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
def test_what_is_not_training_finds_what_the_library_finds(config, given):
    torch.manual_seed(0)
    quantizer = Quantizer(config)
    quantizer(torch.randn(2, 2000 if config.kind == "vq" else 2, config.dim))
    library = library_of(quantizer.eval())
    latents = torch.randn(config.dim, 3, 400).permute(1, 2, 0).to(given) * 2
    expected = library(latents.float())
    codes, tokens, loss = quantizer(latents)
    assert torch.equal(tokens, expected[1].long()) and tokens.unique().numel() > min(config.vocab_size, 1200) // 4
    assert codes.dtype == torch.float32 and loss.shape == () and loss == 0
    named = library.indices_to_codes if config.kind != "vq" else library.get_codes_from_indices
    assert torch.equal(codes, named(tokens)) and torch.allclose(codes, expected[0], atol=1e-6)


def test_a_trained_quantizer_does_not_need_the_library(monkeypatch):
    for config in CONFIGS:
        quantizer = Quantizer(config)
        quantizer.load_state_dict(make(config).state_dict())
        quantizer.eval()
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "vector_quantize_pytorch", None)  # its import raises ImportError
            quantizer.codes(quantizer(torch.randn(1, 5, config.dim))[1])
            with pytest.raises(ImportError):
                quantizer.train()(torch.randn(1, 5, config.dim))


def test_the_state_of_a_learned_codebook_is_that_of_the_library_after_each_step():
    torch.manual_seed(0)
    quantizer = Quantizer(CONFIGS[1]).eval()
    assert not quantizer.initialised
    for training in (False, True, True):  # the first step makes the codebook, also outside training
        # New latents each time: those that made the codebook may leave it as it is.
        before, latents = quantizer.embed_ZD.clone(), torch.randn(2, 200, 4)
        quantizer.train(training)(latents)
        book = library_of(quantizer)._codebook
        assert quantizer.initialised and not torch.equal(quantizer.embed_ZD, before)
        assert torch.equal(quantizer.embed_ZD, book.embed[0]) and torch.equal(quantizer.embed_avg_ZD, book.embed_avg[0])
        assert torch.equal(quantizer.cluster_size_Z, book.cluster_size[0])
    again = Quantizer(CONFIGS[1])
    again.load_state_dict(quantizer.state_dict())
    for one in (quantizer, again):
        torch.manual_seed(0)
        one.train().tokens = one(latents)[1]
    assert torch.equal(quantizer.tokens, again.tokens)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in quantizer.state_dict().items())


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
    {"kind": "pq"}, {"levels": ()}, {"levels": (1, 8)}, {"levels": (8, 2)}, {"levels": (64, 64, 64, 64)},
    {"levels": (1001,)}, {"levels": (8.0, 8)}, {"levels": [8, 8]}, {"levels": (True, 8)}, {"codebook_size": 1},
    {"codebook_size": 2.5}, {"codebook_size": 2**18 + 1}, {"kind": "lfq", "codebook_size": 48}, {"codebook_dim": 0},
    {"codebook_dim": 1025}, {"spread": float("nan")}, {"spread": float("inf")},
])  # fmt: skip
def test_sizes_that_cannot_be_are_refused(change):
    with pytest.raises(ReelmError, match=r"quantizer\."):
        QuantizerConfig(**change)


def test_every_fsq_code_comes_back_from_its_id():
    for levels in ((8, 8, 8, 5), (8, 8, 8, 5, 5, 5), (3,), (26, 27), (3, 55), (1000,)):
        quantizer = make(QuantizerConfig(levels=levels))
        tokens = torch.arange(quantizer.config.vocab_size).view(1, -1)
        codes = quantizer.codes(tokens)
        assert torch.equal(FSQ(levels=list(levels)).codes_to_indices(codes).long(), tokens)
        assert codes.flatten(0, 1).unique(dim=0).shape[0] == quantizer.config.vocab_size


def test_spread_is_even_and_independent():
    """Codes that are all used alike have none of the loss, whatever their levels; each way to waste codes has some."""
    for levels in ((8, 8, 5), (5, 3), (6, 4)):
        quantizer = make(QuantizerConfig(levels=levels))
        codes = quantizer.codes(torch.arange(quantizer.config.vocab_size)[None])
        assert spread_loss(codes, codes, levels) < 1e-9
        for wasted in (codes * 0.3, codes + 0.7, codes[..., :1].expand_as(codes)):
            assert spread_loss(wasted, wasted, levels) > 0.02


def test_spread_leads_narrow_and_correlated_latents_to_more_codes():
    torch.manual_seed(0)
    quantizer = Quantizer(QuantizerConfig(levels=(8, 8, 5), spread=1.0))
    latents = (0.1 * torch.randn(2, 600, 3) @ torch.ones(3, 3) + 0.1 * torch.randn(2, 600, 3)).requires_grad_()
    used = quantizer(latents)[1].unique().numel()
    optimizer = torch.optim.Adam([latents], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        loss = quantizer(latents)[2]
        loss.backward()
        optimizer.step()
    assert loss < 0.02
    assert used < 0.1 * 320
    assert quantizer(latents)[1].unique().numel() > 0.75 * 320


def test_spread_is_a_loss_of_fsq_in_training_alone():
    latents = torch.randn(2, 50, 3)
    quantizer = Quantizer(QuantizerConfig(levels=(8, 5, 3), spread=0.5))
    codes, _, loss = quantizer(latents)
    assert torch.isclose(loss, 0.5 * spread_loss(latents, codes, (8, 5, 3)))
    assert quantizer.eval()(latents)[2] == 0
    assert Quantizer(QuantizerConfig(levels=(8, 5, 3)))(latents)[2] == 0
    with pytest.raises(ReelmError, match=r"^quantizer.spread: must be finite and at least 0"):
        QuantizerConfig(spread=-1.0)


@pytest.mark.parametrize("config", [
    QuantizerConfig(levels=(3,)), QuantizerConfig(levels=(1000,)), QuantizerConfig(levels=(3, 26)),
    QuantizerConfig(kind="lfq", codebook_size=2), QuantizerConfig(kind="vq", codebook_size=2, codebook_dim=1),
    QuantizerConfig(kind="vq", codebook_size=7, codebook_dim=1), QuantizerConfig(kind="vq", codebook_dim=64),
], ids=str)  # fmt: skip
def test_the_smallest_and_largest_sizes_train_and_name_their_codes(config):
    torch.manual_seed(0)
    for vectors in (1, 40):
        quantizer = Quantizer(config)
        latents = (torch.randn(1, vectors, config.dim) * 20).requires_grad_()
        for _ in range(3):
            codes, tokens, loss = quantizer(latents)
            assert codes.shape == latents.shape and tokens.shape == (1, vectors)
            (codes.square().sum() + loss).backward()
        codes, tokens, _ = quantizer.eval()(latents)
        assert latents.grad.isfinite().all() and 0 <= tokens.min() <= tokens.max() < config.vocab_size
        assert torch.allclose(quantizer.codes(tokens), codes, atol=1e-5)


def test_a_learned_codebook_is_loaded_from_a_file(tmp_path):
    trained, path = make(CONFIGS[1]), tmp_path / "vq.safetensors"
    save_tensors(path, trained.state_dict())
    loaded, latents = Quantizer(CONFIGS[1]), torch.randn(2, 30, 4)
    load_weights(loaded, path)
    assert loaded.initialised and loaded.initialised.dtype == torch.bool
    assert torch.equal(loaded.eval()(latents)[1], trained(latents)[1])


@pytest.mark.parametrize(("size", "vectors"), [(64, 96), (16, 480)])
def test_codes_are_replaced_by_their_share_of_the_vectors_whatever_the_batch(size, vectors, monkeypatch):
    """With an absolute threshold of 2 vectors a step, the first case would replace a third of its codes every time."""
    torch.manual_seed(0)
    quantizer, replaced = Quantizer(QuantizerConfig(kind="vq", codebook_size=size, codebook_dim=4)), []
    quantizer(torch.randn(2, vectors // 2, 4))
    book = library_of(quantizer)._codebook
    replace = book.replace
    monkeypatch.setattr(book, "replace", lambda samples, batch_mask, **options: (
        replaced.append(int(batch_mask.sum())), replace(samples, batch_mask=batch_mask, **options)))  # fmt: skip
    for _ in range(60):
        quantizer(torch.randn(2, vectors // 2, 4))
    replaced.clear()
    for _ in range(20):
        quantizer(torch.randn(2, vectors // 2, 4))
    assert sum(replaced) < 0.05 * 20 * size
    with torch.no_grad():  # codes that nothing is near to come back into use
        quantizer.embed_ZD[: size // 4] = quantizer.embed_avg_ZD[: size // 4] = 100.0
    for _ in range(60):
        tokens = quantizer(torch.randn(2, vectors // 2, 4))[1]
    assert sum(replaced) >= size // 4 and tokens.unique().numel() > size // 2 and book.embed.max() < 10
