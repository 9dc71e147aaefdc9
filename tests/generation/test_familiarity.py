"""Pictures that a model does not know are told from those of its own world, and the user is told once."""

import numpy as np
import torch

from reelm.generation.familiarity import unfamiliar
from reelm.generation.pixels import encode_frames
from reelm.generation.pretrained import load_pretrained
from reelm.media.writer import write_clip
from reelm.world.render import render
from reelm.world.scene import sample_scene


def leaves(count):
    """(count, 64, 64, 3): fine detail of natural footage: blobs of every size, with a camera that moves."""
    rng, total = np.random.default_rng(3), np.zeros((64, 96, 3))
    for size in (1, 2, 4, 8, 16, 32):
        total += rng.normal(0, 18, (64 // size, 96 // size, 3)).repeat(size, 0).repeat(size, 1)
    picture = (120 + total).clip(0, 255).astype(np.uint8)
    return np.stack([picture[:, 2 * t : 2 * t + 64] for t in range(count)])


def test_the_bundled_model_knows_its_world_and_no_footage():
    parts = load_pretrained("world", device="cpu")
    own = render([sample_scene(5, index, split="held-out") for index in range(4)], 9, height=64, width=64)
    for clip_THW3 in own:
        assert unfamiliar(parts, clip_THW3, encode_frames(parts.tokenizer, clip_THW3)) is None
    frames_THW3 = torch.from_numpy(leaves(9))
    warning = unfamiliar(parts, frames_THW3, encode_frames(parts.tokenizer, frames_THW3))
    assert warning is not None
    assert warning.startswith("warning: clip: world does not know pictures like these (")
    assert "\n" not in warning and "reelm train tokenizer" in warning


def test_a_file_is_judged_and_a_model_without_a_bound_says_nothing(debug_generator, tmp_path, capsys):
    config = debug_generator.parts.config
    frames = leaves(5)[:, : config.height, : config.width]
    write_clip(tmp_path / "leaves.mkv", frames, config.fps)
    debug_generator.continue_clip(tmp_path / "leaves.mkv", num_frames=1, seed=1)
    assert "does not know" not in capsys.readouterr().err
