import pytest
import torch

from reelm.core.checkpoint import load_tensors, load_weights, save_tensors
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


@pytest.mark.parametrize(("size", "dim"), [(32, 4), (300, 8), (1500, 3)])
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
def test_a_vq_that_is_not_trained_finds_what_the_library_finds_without_its_matrix(size, dim, given, monkeypatch):
    torch.manual_seed(0)
    quantizer = Quantizer(QuantizerConfig(kind="vq", codebook_size=size, codebook_dim=dim))
    quantizer(torch.randn(2, 2000, dim))
    quantizer.eval()
    latents = torch.randn(dim, 3, 400).permute(1, 2, 0).to(given) * 2
    expected = quantizer.codebook(latents.float())
    monkeypatch.setattr(quantizer.codebook, "forward", None)
    codes, tokens, loss = quantizer(latents)
    assert torch.equal(tokens, expected[1]) and tokens.unique().numel() > size // 4
    assert torch.equal(codes, expected[0]) and codes.dtype == torch.float32
    assert loss == expected[2] == 0


def test_a_vq_without_a_codebook_yet_and_one_in_training_are_left_to_the_library():
    latents = torch.randn(2, 200, 4)
    for training in (True, False):
        quantizers = [Quantizer(CONFIGS[1]).train(training) for _ in range(2)]
        for quantizer in quantizers:
            torch.manual_seed(0)
            quantizer._set_threshold(400)
            quantizer.tokens = (quantizer if quantizer is quantizers[0] else quantizer.codebook)(latents)[1]
        ours, library = (quantizer.codebook.state_dict() for quantizer in quantizers)
        assert torch.equal(quantizers[0].tokens, quantizers[1].tokens)
        assert all(torch.equal(ours[name], library[name]) for name in ours) and ours["_codebook.embed"].any()


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
        assert torch.equal(quantizer.codebook.codes_to_indices(codes).long(), tokens)
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


FLAGS = {"1.20": torch.ones(1), "1.20 in float16": torch.ones(1).half(), "1.27": torch.tensor(True)}


@pytest.mark.parametrize("flag", FLAGS.values(), ids=FLAGS)
@pytest.mark.parametrize("own", [torch.zeros(1), torch.tensor(False)], ids=["by 1.20", "by 1.27"])
def test_files_of_a_learned_codebook_have_one_format_and_load_under_every_version(flag, own, tmp_path):
    """Versions of the library have the flag "has a codebook" as (1,) float32 or as () bool."""
    name, trained, path = "codebook._codebook.initted", make(CONFIGS[1]), tmp_path / "vq.safetensors"
    latents = torch.randn(2, 30, 4)

    def fresh():
        quantizer = Quantizer(CONFIGS[1])
        quantizer.codebook._codebook.initted = own.clone()
        return quantizer

    state = trained.state_dict() | {name: flag}
    save_tensors(path, state)
    by_file, by_state = fresh(), fresh()
    load_weights(by_file, path)
    by_state.load_state_dict(state)
    for quantizer in (by_file, by_state):
        assert quantizer.codebook._codebook.initted.shape == own.shape
        assert torch.equal(quantizer.eval()(latents)[1], trained(latents)[1])
        save_tensors(path, quantizer.state_dict())
        written = load_tensors(path)[name]
        assert written.shape == () and written.dtype == torch.bool and written


@pytest.mark.parametrize(("size", "vectors"), [(64, 96), (16, 480)])
def test_codes_are_replaced_by_their_share_of_the_vectors_whatever_the_batch(size, vectors, monkeypatch):
    """With an absolute threshold of 2 vectors a step, the first case would replace a third of its codes every time."""
    torch.manual_seed(0)
    quantizer, replaced = Quantizer(QuantizerConfig(kind="vq", codebook_size=size, codebook_dim=4)), []
    book = quantizer.codebook._codebook
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
        book.embed[0, : size // 4] = book.embed_avg[0, : size // 4] = 100.0
    for _ in range(60):
        tokens = quantizer(torch.randn(2, vectors // 2, 4))[1]
    assert sum(replaced) >= size // 4 and tokens.unique().numel() > size // 2 and book.embed.max() < 10
