"""Factored tables of token ids: levels are the quantizer's, merging changes nothing, what is learnt is shared."""

import json

import pytest
import torch

from reelm.core.checkpoint import load_tensors
from reelm.core.errors import ReelmError
from reelm.data.token_shards import write_shard
from reelm.lm.lm_config import LMConfig
from reelm.lm.text import TextEncoder, train_text
from reelm.lm.transformer import VideoTransformer
from reelm.tokenizer.quantizer import Quantizer, QuantizerConfig
from reelm.training.factored_vocabulary import FactoredTable, factor_vocabulary, merge_factors
from reelm.training.lm_training import LMTraining, train_lm
from reelm.training.train_config import TrainConfig

LEVELS = (4, 3, 2)
SIZES = LMConfig(vocab_size=24, rows=2, columns=2, window=3, text_vocab_size=16, prefix=4, width=16, depth=1, heads=2,
                 kv_heads=1, head_dim=8, hidden=16, neighbour_dim=4)  # fmt: skip


def model(seed=0):
    torch.manual_seed(seed)
    return VideoTransformer(SIZES)


def logits(lm, tokens_Bthw):
    return lm(tokens_Bthw, torch.zeros(len(tokens_Bthw), 4, dtype=torch.long), torch.ones(len(tokens_Bthw)).long())


@pytest.fixture
def clips():
    return torch.randint(24, (3, 4, 2, 2), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("levels", [(4, 3, 3), (8, 8, 8, 5), (7,), (5, 8, 3)])
def test_factors_are_the_channels_of_the_quantizer(levels):
    total = FactoredTable(levels, 1)
    count = len(total.factors_VX)
    codes_VK = Quantizer(QuantizerConfig(levels=levels)).codes(torch.arange(count)[None])[0]
    for channel in range(len(levels)):
        # Ids share a level exactly where the quantizer gives them the same value of the channel.
        level_V, value_V = total.factors_VX[:, channel], codes_VK[:, channel]
        assert torch.equal(level_V[:, None] == level_V, (value_V[:, None] - value_V).abs() < 1e-6)
    assert len(total.factors_VX.unique(dim=0)) == count
    assert int(total.factors_VX.max()) == sum(levels) - 1


@pytest.mark.parametrize("fresh", [True, False])
def test_folded_weights_are_those_of_a_plain_model_that_computes_the_same(clips, fresh):
    lm = model()
    before = logits(lm, clips)
    factor_vocabulary(lm, LEVELS, fresh=fresh)
    assert torch.equal(logits(lm, clips), before) == (not fresh)
    for parameter in lm.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    plain = VideoTransformer(SIZES)
    plain.load_state_dict(merge_factors(lm.state_dict(), LEVELS))
    torch.testing.assert_close(logits(plain, clips), logits(lm, clips))


@pytest.mark.parametrize("name", ["head", "token_embedding"])
def test_what_is_learnt_of_an_id_is_learnt_of_those_that_share_a_level(name):
    factor_vocabulary(lm := model(), LEVELS)
    table = getattr(lm, name)
    old = table.weight.detach().clone()
    table.weight[5].sum().backward()
    with torch.no_grad():
        for parameter in table.parameters():
            parameter -= 0.1 * parameter.grad
    changed = (table.weight.detach() != old).any(1)
    factors_VX = FactoredTable(LEVELS, 1).factors_VX
    assert torch.equal(changed[:24], (factors_VX == factors_VX[5]).any(1))
    assert not changed[24:].any()  # the row that stands for no token


def test_levels_of_another_vocabulary_are_refused():
    with pytest.raises(ReelmError, match=r"^levels: must have the product 24, got \(4, 3\)"):
        factor_vocabulary(model(), (4, 3))


def test_a_training_with_factored_tables_writes_a_plain_model(tmp_path):
    text = TextEncoder(train_text(["a red ball"]))
    generator = torch.Generator().manual_seed(0)
    (tmp_path / "data").mkdir()
    ids = torch.randint(24, (6, 3, 2, 2), generator=generator)
    write_shard(tmp_path / "data" / "a.safetensors", ids, [["a red ball"]] * 6, fps=8)

    def run(folder, steps, levels, **options):
        recipe = LMTraining(
            model=SIZES, batch_tokens=24, train=TrainConfig(steps=steps, warmup=1, learning_rate=0.01, report_steps=1)
        )
        return train_lm(recipe, tmp_path / "data", text, tmp_path / folder, levels=levels, device="cpu", **options)

    shared, plain = run("shared", 4, LEVELS), run("plain", 4, ())
    written = load_tensors(tmp_path / "shared" / "lm.safetensors")
    assert written.keys() == plain.state_dict().keys()
    assert all(torch.equal(tensor, written[name]) for name, tensor in shared.state_dict().items())
    assert any((tensor != written[name]).any() for name, tensor in plain.state_dict().items())
    # From a model's weights it begins where the model stood, and from nothing elsewhere.
    begun, again = (run(name, 1, levels, init=tmp_path / "plain") for name, levels in (("b", LEVELS), ("a", ())))
    losses = {name: read_loss(tmp_path / name) for name in ("a", "b", "shared", "plain")}
    assert losses["a"] == losses["b"]
    assert losses["shared"] != losses["plain"]
    assert any((tensor != again.state_dict()[name]).any() for name, tensor in begun.state_dict().items())


def read_loss(folder):
    """Of the first step."""
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])["loss"]
