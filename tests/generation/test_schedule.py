"""Prompts and temperatures over time."""

import dataclasses

import numpy as np
import pytest
import torch

from reelm.core.errors import ReelmError
from reelm.core.layout import Compression
from reelm.generation.arguments import is_schedule, read_prompts, read_schedule, to_latent_frames
from reelm.kernels.sample import sample
from reelm.lm.positions import prefix_rotation, video_rotation

SIDE = Compression(4, 8, 8)
RED, BLUE = "a red ball moves left", "a blue ring spins over grass"


def test_prompts_of_every_kind():
    assert read_prompts(RED) == [((0.0, RED),)]
    assert read_prompts([RED, BLUE]) == [((0.0, RED),), ((0.0, BLUE),)]
    assert read_prompts([(0, RED), (4, BLUE)]) == [((0.0, RED), (4.0, BLUE))]
    assert read_prompts([BLUE, [(0, RED), (1.5, BLUE)]]) == [((0.0, BLUE),), ((0.0, RED), (1.5, BLUE))]
    assert is_schedule([(0, RED)])
    assert not is_schedule([RED, BLUE])
    assert not is_schedule([[(0, RED)], BLUE])


@pytest.mark.parametrize(("value", "message"), [
    ({"a": 1}, "prompt: must be a string, a list of strings, or a schedule"),
    ([(0, RED), (4,)], r"prompt: must be a schedule of \(second, value\) pairs"),
    ([(0, RED), (4, 5)], r"prompt: must be a schedule of \(second, value\) pairs"),
    ([(1, RED)], "prompt: must begin at second 0, got 1.0"),
    ([(0, RED), (4, BLUE), (4.0, RED)], "prompt: must have seconds that ascend"),
    ([(0, RED), (float("nan"), BLUE)], r"prompt: must be a schedule of \(second, value\) pairs"),
])  # fmt: skip
def test_bad_schedules_are_refused(value, message):
    with pytest.raises(ReelmError, match=f"^{message}"):
        read_prompts(value)


def test_seconds_become_the_first_latent_frame_that_begins_then_or_later():
    schedule = read_schedule([(0, "a"), (0.5, "c"), (0.6, "d"), (4.0, "e")], "prompt", str)
    # At 8 frames a second and 4 frames a latent frame, they begin with frames 0, 1, 5, 9, 13, ...
    with pytest.raises(ReelmError, match="must change at most once in 4 frames"):
        to_latent_frames(schedule, fps=8, compression=SIDE, continuing=False)
    schedule = (schedule[0], schedule[1], schedule[3])
    found = to_latent_frames(schedule, fps=8, compression=SIDE, continuing=False)
    assert found == ((0, "a"), (2, "c"), (9, "e"))
    # What is added to a clip begins with a whole latent frame.
    assert to_latent_frames(schedule, fps=8, compression=SIDE, continuing=True) == ((0, "a"), (1, "c"), (8, "e"))
    # Where latent frame 0 has 4 frames too, they begin with frames 0, 4, 8, 12, ...
    whole = Compression(4, 8, 8, first=4)
    assert to_latent_frames(schedule, fps=8, compression=whole, continuing=False) == ((0, "a"), (1, "c"), (8, "e"))


def test_a_clip_up_to_a_change_is_the_clip_without_it(debug_generator):
    g = debug_generator
    plain = g.generate(RED, seed=5, num_frames=25)
    turned = g.generate([(0, RED), (1.0, BLUE)], seed=5, num_frames=25)
    border = 3  # the first latent frame that begins at frame 8 or later
    assert np.array_equal(turned.tokens[:border], plain.tokens[:border])
    assert not np.array_equal(turned.tokens[border], plain.tokens[border])
    assert turned.prompt == BLUE
    assert turned.settings["prompts"] == [[0, RED], [border, BLUE]]
    # The same by stopping there and going on with the other prompt, from the cache and from the tokens alone.
    start = g.generate(RED, seed=5, num_frames=9)
    for state in (start.state, None):
        start.state = state
        assert np.array_equal(g.continue_clip(start, num_frames=16, prompt=BLUE).tokens, turned.tokens)
    # A clip that stops before its change still makes it.
    early = g.generate([(0, RED), (1.0, BLUE)], seed=5, num_frames=5)
    assert np.array_equal(g.continue_clip(early, num_frames=20).tokens, turned.tokens)


def test_every_token_reads_the_prefix_of_its_own_time(debug_generator):
    """Against a pass over the whole clip with both prefixes in it, each read by its own latent frames."""
    parts = debug_generator.parts
    model, config = parts.lm, parts.config.lm
    video = debug_generator.generate([(0, RED), (0.5, BLUE)], seed=9, num_frames=13, guidance_scale=1.0)
    border, size = 2, config.frame_size
    text_2P, lengths_2 = model.text.prefix([RED, BLUE], config.prefix)
    tokens_1S = torch.from_numpy(video.tokens).flatten()[None]
    positions_1S = torch.arange(tokens_1S.shape[1])[None]
    P, S = config.prefix, tokens_1S.shape[1]
    rotations = [prefix_rotation(P, config.head_dim, torch.device("cpu"))] * 2
    rotations.append(video_rotation(positions_1S, config.rows, config.columns, config.head_dim))
    rotation = tuple(torch.cat([r[part] for r in rotations], 1) for part in range(2))

    frame_S = positions_1S[0] // size
    prompt_S = (frame_S >= border).long()
    mask = torch.zeros(2 * P + S, 2 * P + S, dtype=torch.bool)
    for which in range(2):
        rows = torch.arange(which * P, which * P + P)
        valid = torch.arange(P) < lengths_2[which]
        mask[rows[:, None], rows] = torch.ones(P, P).tril().bool() & valid
        mask[2 * P :, rows] = (prompt_S == which)[:, None] & valid
    near = (frame_S[:, None] - frame_S < config.window) & (positions_1S[0][:, None] >= positions_1S[0])
    mask[2 * P :, 2 * P :] = near

    def attend(layer, module, qkv):
        q_rotated, q, k, v = (x.transpose(1, 2) for x in module.rotated(qkv, rotation))
        k, v = (x.repeat_interleave(config.heads // config.kv_heads, 1) for x in (k, v))
        scores = q_rotated @ k.transpose(-1, -2)
        scores[:, :, 2 * P :, : 2 * P] = (q @ k.transpose(-1, -2))[:, :, 2 * P :, : 2 * P]
        weights = (scores * config.head_dim**-0.5).masked_fill(~mask, -torch.inf).softmax(-1)
        return torch.nan_to_num(weights).matmul(v).transpose(1, 2)

    with torch.no_grad():
        x = torch.cat([*model.text_embedding(text_2P)[:, None], model._video_input(tokens_1S, positions_1S)], 1)
        logits_SV = model.head(model.norm(model._blocks(x, attend)[0, 2 * P :]))
    seeds, samples = torch.full((S,), 9), torch.zeros(S, dtype=torch.int64)
    options = {name: video.settings[name] for name in ("temperature", "top_k", "top_p", "min_p")}
    assert torch.equal(sample(logits_SV, seeds, samples, positions_1S[0], **options), tokens_1S[0])


def test_temperatures_hold_from_their_latent_frame_on(debug_generator):
    g = debug_generator
    cold = g.generate(RED, seed=5, num_frames=13, temperature=0.5)
    for decoder in ("sequential", "jacobi"):
        cooling = g.generate(RED, seed=5, num_frames=13, temperature=[(0, 0.5), (0.6, 1.5)], decoder=decoder)
        assert np.array_equal(cooling.tokens[:2], cold.tokens[:2])
        assert not np.array_equal(cooling.tokens[2:], cold.tokens[2:])
    assert cooling.settings["temperatures"] == [[0, 0.5], [2, 1.5]]
    start = g.generate(RED, seed=5, num_frames=5, temperature=[(0, 0.5), (0.6, 1.5)])
    assert np.array_equal(g.continue_clip(start, num_frames=8).tokens, cooling.tokens)


@pytest.mark.parametrize("value", [[(0, 0.0)], [(0, 1.0), (1, 200.0)]])
def test_temperatures_out_of_range_are_refused(debug_generator, value):
    with pytest.raises(ReelmError, match=r"^temperature: must be between 1e-6 and 100 in a schedule"):
        debug_generator.generate(RED, temperature=value)


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), 1e9])
def test_temperatures_in_a_file_that_no_clip_can_have_are_left_out(debug_generator, wrong):
    state = debug_generator.generate("a red ball", num_frames=5, seed=1, guidance_scale=1.0).state
    other = dataclasses.replace(state, settings={**state.settings, "temperatures": [[0, wrong]]}, cache={})
    longer = debug_generator.continue_clip(other, num_frames=4)
    assert longer.settings["temperatures"] == []
