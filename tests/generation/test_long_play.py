"""Ten thousand pictures of a play, drawn ahead, not drawn ahead, in a batch, and resumed in another process."""

import subprocess
import sys

import numpy as np
import pytest

from reelm.generation.play_clock import random_track
from reelm.generation.session import SessionState

PICTURES = 10_000
# Plays on from a session under the keys in a file, and saves the session.
PROGRAM = """
import sys
import reelm
from reelm.core.controls import ControlTrack
from reelm.generation.play_file import read_keys_file

model, start, keys, end = sys.argv[1:]
track = read_keys_file(keys)
with reelm.VideoGenerator.from_pretrained(model, device="cpu").play(clip=start) as session:
    for first in range(0, len(track), 2):
        session.step(track[first : first + 2])
    session.session.save(end)
"""


@pytest.mark.slow
def test_ten_thousand_pictures_are_the_same_in_every_way(played_generator, played_checkpoint, tmp_path):
    track = random_track(("a", "d", "jump"), PICTURES, fps=8, seed=1)
    options = {"seed": 3, "temperature": 1.5}

    def play(keys, **changes):
        with played_generator.play("a red ball", **options, **changes) as session:
            for first in range(0, len(keys), 2):
                session.step(keys[first : first + 2])
            return session.session, session.dropped

    ahead, dropped = play(track)
    plain, _ = play(track, ahead=False)
    half = PICTURES // 2
    first, _ = play(track[:half])
    first.save(tmp_path / "half.safetensors")
    (tmp_path / "keys.txt").write_text(track[half:].written)
    names = ("half.safetensors", "keys.txt", "whole.safetensors")
    words = [sys.executable, "-c", PROGRAM, str(played_checkpoint), *(str(tmp_path / name) for name in names)]
    subprocess.run(words, check=True)
    resumed = SessionState.load(tmp_path / "whole.safetensors")
    prompts, seeds = ["a blue ring", "a red ball", "a red ball", "a blue ring"], [1, 3, 4, 5]
    batch = played_generator.generate(prompts, **options | {"seed": seeds}, keys=track)
    wanted = plain.tokens_thw.numpy()
    found = {"ahead": ahead.tokens_thw, "resumed": resumed.tokens_thw, "in a batch": batch[1].tokens}
    differ = {name: int((np.asarray(tokens) != wanted).sum()) for name, tokens in found.items()}
    print(f"{differ} of {wanted.size} tokens differ; {dropped} latent frames were dropped")
    assert len(wanted) == 1 + PICTURES // 2 and dropped > 500
    assert set(differ.values()) == {0}
