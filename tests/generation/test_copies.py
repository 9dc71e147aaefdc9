"""Objects that are pickled for another process, or copied: they make the same clips there, or are refused by name."""

import copy
import dataclasses
import multiprocessing
import pickle
import shutil

import numpy as np
import pytest
import torch

from reelm import VideoGenerator
from reelm.core.condition import Embedding, Frames, Text
from reelm.core.errors import CheckpointError, ReelmError

RED = "a red ball moves left"
OPTIONS = {"seed": 3, "num_frames": 5}
WAYS = {"pickle": lambda value: pickle.loads(pickle.dumps(value)), "copy": copy.deepcopy}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("numerics", [{}, {"dtype": "bfloat16", "cache": "int8"}])
def test_a_generator_is_loaded_again(debug_checkpoint, way, numerics, monkeypatch):
    monkeypatch.chdir(debug_checkpoint.parent)  # a relative path is another one elsewhere
    generator = VideoGenerator.from_pretrained(debug_checkpoint.name, device="cpu", **numerics)
    monkeypatch.chdir("/")
    again = way(generator)
    assert again.parts.lm is not generator.parts.lm and again.parts.lm.numerics == generator.parts.lm.numerics
    wanted, found = (each.generate(RED, **OPTIONS) for each in (generator, again))
    assert np.array_equal(wanted.tokens, found.tokens) and np.array_equal(wanted.frames, found.frames)
    assert wanted.settings == found.settings
    assert len(pickle.dumps(generator)) < 10_000


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_clips_and_configs_are_copied(debug_generator, way):
    video = debug_generator.generate(RED, **OPTIONS)
    for clip, state in ((way(video), way(video.state)), (copy.copy(video), copy.copy(video.state))):
        assert np.array_equal(clip.frames, video.frames) and clip.settings == video.settings
        for start in (clip, state):
            wanted = debug_generator.continue_clip(video, num_frames=4).tokens
            assert np.array_equal(debug_generator.continue_clip(start, num_frames=4).tokens, wanted)
    for value in (debug_generator.parts.config, Text("a"), Frames(torch.zeros(1, 2, 2, 3, dtype=torch.uint8)),
                  Embedding(torch.ones(2, 3))):  # fmt: skip
        assert way(value) == value


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_what_cannot_be_copied_says_so(debug_generator, way):
    with pytest.raises(ReelmError, match=r"^stream: must not be pickled or copied"):
        way(debug_generator.stream(RED))
    with pytest.raises(ReelmError, match=r"^model: must be loaded from a checkpoint to be pickled or copied"):
        way(VideoGenerator(dataclasses.replace(debug_generator.parts, origin=None)))


def test_another_model_in_the_folder_is_refused(debug_checkpoint, coarse_checkpoint, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(debug_checkpoint, folder)
    kept = pickle.dumps(VideoGenerator.from_pretrained(folder, device="cpu"))
    shutil.rmtree(folder)
    with pytest.raises(CheckpointError, match=r"^model: "):
        pickle.loads(kept)
    shutil.copytree(coarse_checkpoint, folder)
    lm = (folder / "lm.safetensors").read_bytes()
    (folder / "lm.safetensors").write_bytes(lm[:-4] + bytes(4))
    with pytest.raises(CheckpointError, match=r"^model: must be the model that was pickled, got other weights in "):
        pickle.loads(kept)


def tokens_elsewhere(generator):
    """Run in another process."""
    return generator.generate(RED, **OPTIONS).tokens


@pytest.mark.slow
def test_a_spawned_process_makes_the_same_clip(debug_generator):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(tokens_elsewhere, (debug_generator,))
    assert np.array_equal(found, tokens_elsewhere(debug_generator))
