"""A model with a controller: what its given tokens change, and that one pass and many are the same."""

import pytest
import torch

from reelm.core.controls import Controller
from reelm.lm.control_embedding import ControlEmbedding
from reelm.lm.lm_config import LMConfig
from reelm.lm.neighbours import neighbour_tables
from reelm.lm.transformer import VideoTransformer

CONTROLLER = Controller(keys=("a", "b", "c"), axes=("turn",), limits=(4.0,), bins=5, pictures=2)
SIZES = {"vocab_size": 19, "rows": 3, "columns": 4, "window": 3, "text_vocab_size": 11, "prefix": 5, "width": 32,
         "depth": 2, "heads": 4, "kv_heads": 2, "head_dim": 12, "hidden": 32, "neighbour_dim": 8}  # fmt: skip
FRAMES = 7


@pytest.fixture(params=["raster", "coarse"])
def model(request):
    torch.manual_seed(0)
    model = VideoTransformer(LMConfig(**SIZES, order=request.param, controller=CONTROLLER)).eval()
    for parameter in model.parameters():  # away from the small start
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.requires_grad_(False)


def inputs(batch=2):
    generator = torch.Generator().manual_seed(1)
    video = torch.randint(19, (batch, FRAMES, 3, 4), generator=generator)
    controls = {"keys": torch.randint(8, (batch, FRAMES, 2), generator=generator),
                "turn": torch.randint(5, (batch, FRAMES, 2), generator=generator)}  # fmt: skip
    text = torch.randint(11, (batch, 5), generator=generator)
    return video, text, torch.tensor([2, 5])[:batch], controls


@pytest.mark.parametrize("sizes", [[1], [16], [5, 1, 3]])
def test_rolling_past_the_window_equals_one_masked_pass(model, sizes):
    video, text, lengths, controls = inputs()
    whole = model(video, text, lengths, controls)
    assert whole.shape == (2, FRAMES * 16, 19) and whole.std() > 0.1
    cache = model.make_cache(2)
    model.prefill(cache, text, lengths)
    tokens_BS, outs, start = model.layout.pack({"video": video, **controls}).flatten(1), [], 0
    while start < tokens_BS.shape[1]:
        count = min(sizes[len(outs) % len(sizes)], tokens_BS.shape[1] - start)
        cache.put_tokens(tokens_BS[:, start : start + count])
        outs.append(model.step(cache, count))
        cache.advance(count)
        start += count
    assert (torch.cat(outs, 1) - whole).abs().max() < 1e-4


@pytest.mark.parametrize(("name", "picture"), [("keys", 0), ("keys", 1), ("turn", 0), ("turn", 1)])
def test_a_control_shows_in_its_latent_frame_and_not_before(model, name, picture):
    video, text, lengths, controls = inputs(1)
    before = model(video, text, lengths, controls).unflatten(1, (FRAMES, 16))
    controls[name][0, 4, picture] = (controls[name][0, 4, picture] + 1) % 5
    changed_tS = (model(video, text, lengths, controls).unflatten(1, (FRAMES, 16)) != before)[0].any(-1)
    assert not changed_tS[:4].any()
    assert changed_tS[4, 4:].all()  # all video tokens of the latent frame
    place = {"keys": 0, "turn": 2}[name] + picture
    assert not changed_tS[4, : place + 1].any()  # a given token is known after its own slot


def test_a_set_of_keys_is_the_sum_of_its_keys_and_others_have_vectors_of_their_own():
    torch.manual_seed(0)
    layout = LMConfig(**SIZES, controller=CONTROLLER).layout
    embedding, zero, at = ControlEmbedding(CONTROLLER, layout, 6), torch.zeros(1, 1, 6), torch.tensor([[20]])

    def vector(*ids):
        given = {"keys": torch.tensor([ids[:2]]), "turn": torch.tensor([ids[2:]])}
        tokens_1S = layout.pack({"video": torch.zeros(1, 3, 4, dtype=torch.int64), **given})
        return embedding(zero, tokens_1S, at)[0, 0]

    rest = vector(0, 0, 2, 2)
    a, c, both = (vector(keys, 0, 2, 2) - rest for keys in (1, 4, 5))
    assert torch.allclose(a + c, both, atol=1e-6) and not torch.allclose(a, c)
    assert not torch.allclose(vector(0, 1, 2, 2) - rest, a)  # the second picture
    turned = [vector(0, 0, step, 2) for step in range(5)]
    assert len({tuple(each.tolist()) for each in turned}) == 5


def test_the_neighbours_of_the_video_are_the_same_behind_given_tokens():
    plain, behind = neighbour_tables(3, 4, "coarse"), neighbour_tables(3, 4, "coarse", 4)
    assert torch.equal(behind[1][4:], plain[1])
    assert behind[1][:4].sum(1).tolist() == [1] * 4  # the token written just before
    same_frame = plain[0] > -torch.arange(1, 13)[:, None]
    assert torch.equal(behind[0][4:][same_frame], plain[0][same_frame])
    offsets, shifted = (table[~same_frame & plain[1]] for table in (plain[0], behind[0][4:]))
    assert set((offsets - shifted).tolist()) == {0, 4, 8}  # 0: the token before, at the beginning of a latent frame


def test_its_weights_are_counted(model):
    assert model.cost(1, 1).parameters == sum(weight.numel() for weight in model.parameters())
    plain = LMConfig(**SIZES, order=model.config.order)
    assert model.config.parameters - plain.parameters == 32 * (2 * (3 + 5) + 4)  # vectors, and places
