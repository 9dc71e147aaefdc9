"""Prepared clips to token shards: every window once, whoever does it, and no window that is not asked for."""

import json
import re
from dataclasses import replace

import pytest
import torch

from reelm.core.checkpoint import load_tensors
from reelm.core.controls import Controller, ControlTrack
from reelm.core.errors import ReelmError
from reelm.data import encode
from reelm.data.camera import moving_crop
from reelm.data.clip_shards import ClipShards
from reelm.data.crops import centre_crop, random_scale_crop
from reelm.data.encode import Windows, encode_shards
from reelm.data.prepare import prepare
from reelm.data.recode import PrepareConfig
from reelm.data.token_shards import read_shards, shard_origin
from reelm.media.writer import write_clip
from reelm.tokenizer.emu3_config import Emu3CodecConfig
from reelm.tokenizer.emu3_tokenizer import Emu3Tokenizer
from reelm.tokenizer.quantizer import QuantizerConfig
from reelm.tokenizer.video_tokenizer import TokenizerConfig, VideoTokenizer


@pytest.fixture(scope="module")
def tokenizer():
    torch.manual_seed(0)
    config = TokenizerConfig(encoder_width=8, decoder_widths=(8, 8), decoder_depth=(1, 1),
                             quantizer=QuantizerConfig(levels=(5, 5)))  # fmt: skip
    return VideoTokenizer(config).eval()


def test_every_window_is_there_as_it_is_encoded_alone(long_shards, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "BATCH", 3)
    shards = ClipShards(long_shards)  # of 60, 45 and 10 frames
    assert encode_shards(tokenizer, shards, tmp_path, Windows(num_frames=9, stride=5)) == 11 + 8 + 1
    (sets,) = read_shards(tmp_path)
    assert sets.fps == 10
    assert sets.captions == [["clip 0"]] * 11 + [["clip 1"]] * 8 + [["clip 2"]]
    windows = [(0, 5 * n) for n in range(11)] + [(1, 5 * n) for n in range(8)] + [(2, 0)]
    for tokens_thw, (sample, start) in zip(sets.tokens_Bthw, windows, strict=True):
        alone = tokenizer.encode(torch.from_numpy(shards.read(sample, start, 9))[None])
        assert torch.equal(tokens_thw.long(), alone[0])


def test_ranks_share_the_work_and_what_is_there_is_kept(long_shards, tokenizer, tmp_path, monkeypatch):
    shards = ClipShards(long_shards)
    whole, shared, nines = tmp_path / "whole", tmp_path / "shared", Windows(num_frames=9)
    total = encode_shards(tokenizer, shards, whole, nines)
    assert total == sum(encode_shards(tokenizer, shards, shared, nines, rank=r, world_size=2) for r in (0, 1))
    names = sorted(path.name for path in whole.iterdir())
    assert len(names) == 2 and names == sorted(path.name for path in shared.iterdir())
    for name in names:
        assert shard_origin(whole / name) == shard_origin(shared / name)
        one, other = (load_tensors(folder / name) for folder in (whole, shared))
        assert all(torch.equal(one[key], other[key]) for key in ("tokens", "captions"))
    monkeypatch.setattr(encode, "_encode", lambda *arguments: pytest.fail("encoded again"))
    assert encode_shards(tokenizer, shards, whole, nines) == total
    with pytest.raises(pytest.fail.Exception):
        encode_shards(tokenizer, shards, whole, Windows(num_frames=9, stride=8))


def test_what_changes_nothing_encodes_nothing_again(long_shards, tokenizer, tmp_path, monkeypatch):
    shards = ClipShards(long_shards)
    encode_shards(tokenizer, shards, tmp_path, Windows(num_frames=9))
    encoded = []
    monkeypatch.setattr(encode, "_encode", lambda *_: encoded.append(1) or torch.zeros(1, 3, 3, 4))
    monkeypatch.setattr(encode, "write_shard", lambda *_, **__: None)
    encode_shards(tokenizer, shards, tmp_path, Windows(num_frames=9, stride=9, seed=5))
    assert not encoded
    encode_shards(tokenizer, shards, tmp_path, Windows(num_frames=9, crops=2, mirror=True))
    assert encoded


def test_crops_lie_anywhere_and_the_first_in_the_middle(long_shards, tokenizer, tmp_path):
    shards, size = ClipShards(long_shards), {"height": 24, "width": 16}  # of 24 x 32, so that none is made smaller
    windows = Windows(num_frames=9, stride=30, **size, crops=5)
    assert encode_shards(tokenizer, shards, tmp_path / "a", windows) == 5 * (2 + 2 + 1)
    (sets,) = read_shards(tmp_path / "a")
    assert sets.captions[:10] == [["clip 0"]] * 10
    assert sets.captions[20:] == [["clip 2"]] * 5
    whole_THW3 = torch.from_numpy(shards.read(0, 30, 9))
    middle, *others = sets.tokens_Bthw[5:10].long()
    assert torch.equal(middle, tokenizer.encode(centre_crop(whole_THW3, 24, 16)[None])[0])
    assert len({tuple(tokens.flatten().tolist()) for tokens in others}) >= 3

    def places(tokens_thw, mirrored=False):
        """Where in the frame a crop of these tokens lies."""
        frames = whole_THW3.flip(2) if mirrored else whole_THW3
        made = tokenizer.encode(torch.stack([frames[:, :, left : left + 16] for left in range(17)]))
        return (made == tokens_thw).flatten(1).all(1).nonzero()[:, 0].tolist()

    assert all(places(tokens) for tokens in others)
    # Half are mirrored, by the same seed in the same places; another seed takes others.
    encode_shards(tokenizer, shards, tmp_path / "b", replace(windows, mirror=True))
    encode_shards(tokenizer, shards, tmp_path / "c", replace(windows, seed=1))
    mirrored, elsewhere = (read_shards(tmp_path / name)[0].tokens_Bthw for name in "bc")
    differ = [bool((one != other).any()) for one, other in zip(sets.tokens_Bthw, mirrored, strict=True)]
    assert not any(differ[::5])
    assert 5 <= sum(differ) <= 15  # of 20
    changed = next(n for n in range(6, 10) if differ[n])
    assert places(mirrored[changed].long(), mirrored=True)
    assert (elsewhere != sets.tokens_Bthw).any()
    assert torch.equal(elsewhere[::5], sets.tokens_Bthw[::5])


@pytest.mark.parametrize("motion", [0.0, 1.0])
def test_where_there_is_room_the_others_are_of_any_size_or_move(long_shards, tokenizer, tmp_path, motion):
    size = (16, 16)  # of 24 x 32
    shards = ClipShards(long_shards)
    windows = Windows(num_frames=9, stride=30, height=16, width=16, crops=4, motion=motion)
    encode_shards(tokenizer, shards, tmp_path, windows)
    (sets,) = read_shards(tmp_path)
    whole = torch.from_numpy(shards.read(0, 0, 9))
    crops = [centre_crop(whole, *size)]
    for crop in (1, 2, 3):
        seed = (0, shards.samples[0].crc32, 0, crop)
        crops.append(moving_crop(whole, *size, motion, *seed) if motion else random_scale_crop(whole, *size, *seed))
    assert torch.equal(sets.tokens_Bthw[:4].long(), tokenizer.encode(torch.stack(crops)))


@pytest.mark.parametrize(("options", "message"), [
    ({"stride": 0}, "stride: must be at least 1, got 0"),
    ({"crops": 0}, "crops: must be at least 1, got 0"),
    ({"mirror": True}, "mirror: must be given with more than one crop, got 1"),
    ({"motion": 1.0}, "motion: must be given with more than one crop, got 1"),
    ({"motion": -1.0, "crops": 2}, "motion: must be from 0 to 64, got -1.0"),
    ({"seed": -1}, "seed: "),
    ({"num_frames": 9, "crops": 2}, "crops: must be 1 where windows are as large as the clips, and not mirrored"),
    ({"num_frames": 9, "crops": 2, "motion": 1.0}, "crops: must be 1 where windows are as large as"),
    ({"height": 40}, "height: must be from 1 to 24, which the clips have, got 40"),
    ({"width": 0}, "width: must be from 1 to 32, which the clips have, got 0"),
    ({"num_frames": 61}, "num_frames: must be at most 60, the longest sample's frames, got 61"),
    ({"num_frames": 8}, "num_frames: "),
])  # fmt: skip
def test_wrong_windows_are_refused(long_shards, tokenizer, tmp_path, options, message):
    with pytest.raises(ReelmError, match=f"^{message}"):
        encode_shards(tokenizer, ClipShards(long_shards), tmp_path, Windows(**options))


@pytest.mark.parametrize(("options", "message"), [
    ({"rank": 2, "world_size": 2}, "rank: must be from 0 to 1, got 2"),
    ({"world_size": 0}, "world_size: must be at least 1, got 0"),
])  # fmt: skip
def test_wrong_ranks_are_refused(long_shards, tokenizer, tmp_path, options, message):
    with pytest.raises(ReelmError, match=f"^{message}"):
        encode_shards(tokenizer, ClipShards(long_shards), tmp_path, **options)


@pytest.fixture(scope="module")
def played(tmp_path_factory, pictures):
    """Two clips that were played, of 24 and 14 frames, and one of 10 that was not, each in a shard of its own."""
    folder = tmp_path_factory.mktemp("played")
    for name, frames in (("a", 24), ("b", 14), ("c", 10)):
        write_clip(folder / f"{name}.mkv", pictures(frames, frames), 10)
    lines = [{"keys": ["w"] * (n % 3 == 0) + ["d"] * (n > 20), "turn": n / 4} for n in range(24)]
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "b.csv").write_text("keys\n" + "\n".join(["a", *["none"] * 12, "w+a"]))
    config = PrepareConfig(height=24, width=32, held_out_seconds=0.1, clips_per_shard=1)
    prepare(folder, folder / "shards", config, workers=0)
    return folder / "shards"


def test_each_window_has_the_controls_of_its_pictures(played, tokenizer, tmp_path):
    """What is held during a picture shows in the next one, and each crop of a window has the same."""
    shards, pictures = ClipShards(played), tokenizer.compression.t
    windows = Windows(num_frames=1 + 2 * pictures, stride=3, crops=2, height=16, width=16)
    encode_shards(tokenizer, shards, tmp_path, windows)
    (sets,) = read_shards(tmp_path)
    limit = shards.controller(pictures).limits
    assert sets.controller == Controller(keys=("a", "d", "w"), axes=("turn",), limits=limit, pictures=pictures)
    assert 5 < limit[0] < 23 / 4
    starts = [(sample, start) for sample, s in enumerate(shards.samples) for start in windows.starts(s.frames)]
    assert len(sets.tokens_Bthw) == 2 * len(starts) and {sample for sample, _ in starts} == {0, 1, 2}
    for number, (sample, start) in enumerate(starts):
        track = shards.samples[sample].controls
        for crop in (0, 1):
            tokens = {name: grid[2 * number + crop] for name, grid in sets.controls.items()}
            assert all(grid.shape == (3, pictures) for grid in tokens.values())
            first = sets.controller.track({name: grid[:1] for name, grid in tokens.items()})
            assert set(first.keys) == {frozenset()} and set(first.axes["turn"]) == {0.0}
            later = sets.controller.track({name: grid[1:] for name, grid in tokens.items()})
            wanted = track[start : start + 2 * pictures] if track else ControlTrack((frozenset(),) * 2 * pictures)
            assert later.keys == wanted.keys
            turns = wanted.axes.get("turn", (0.0,) * 2 * pictures)
            assert later.axes["turn"] == pytest.approx([min(x, limit[0]) for x in turns], abs=limit[0] / 14)


def test_held_out_ends_have_the_same_controller(played, tokenizer, tmp_path):
    for split in ("train", "held-out"):
        encode_shards(tokenizer, ClipShards(played, split), tmp_path / split, Windows(num_frames=1))
    (train,), (ends,) = (read_shards(tmp_path / split) for split in ("train", "held-out"))
    assert train.controller == ends.controller and train.controller
    assert ends.controls["keys"].shape == (3, 1, tokenizer.compression.t)


def test_other_controls_encode_anew(played, tokenizer, tmp_path, monkeypatch):
    shards, windows = ClipShards(played), Windows(num_frames=9)
    encode_shards(tokenizer, shards, tmp_path, windows)
    written = []
    monkeypatch.setattr(encode, "write_shard", lambda path, *_, **__: written.append(path.name))
    encode_shards(tokenizer, shards, tmp_path, windows)
    assert not written
    held = shards.samples[1].controls
    shards.samples[1] = replace(shards.samples[1], controls=replace(held, keys=held.keys[::-1]))
    encode_shards(tokenizer, shards, tmp_path, windows)
    assert written == ["clips-train-00001-9.safetensors"]
    turned = {"turn": shards.samples[0].controls.axes["turn"][::-1]}
    shards.samples[0] = replace(shards.samples[0], controls=replace(shards.samples[0].controls, axes=turned))
    written.clear()
    encode_shards(tokenizer, shards, tmp_path, windows)
    assert written == [f"clips-train-0000{number}-9.safetensors" for number in (0, 1)]
    # A limit is part of every token.
    written.clear()
    known = shards.controller(4)
    monkeypatch.setattr(ClipShards, "controller", lambda *_: replace(known, limits=(9.0,)))
    encode_shards(tokenizer, shards, tmp_path, windows)
    assert len(written) == 3


@pytest.mark.parametrize(("options", "message"), [
    ({"mirror": True}, "mirror: must be off where clips have controls: left would be right, got True"),
    ({"motion": 0.5}, "motion: must be 0 where clips have controls: the picture would move without them, got 0.5"),
])  # fmt: skip
def test_crops_that_controls_do_not_explain_are_refused(played, tokenizer, tmp_path, options, message):
    windows = Windows(num_frames=9, crops=2, height=16, width=16, **options)
    with pytest.raises(ReelmError, match=f"^{re.escape(message)}$"):
        encode_shards(tokenizer, ClipShards(played), tmp_path / "tokens", windows)
    assert not (tmp_path / "tokens").exists()


def test_controls_of_a_latent_frame_0_of_several_frames_are_refused(played, tmp_path):
    sizes = {"codebook_size": 8, "base_channels": 32, "multipliers": (1, 1, 1, 1), "blocks": 1, "attended": ()}
    rule = r"^tokenizer: must be one whose first latent frame is one frame, where clips have controls, got '4 frames'$"
    with pytest.raises(ReelmError, match=rule):
        encode_shards(Emu3Tokenizer(Emu3CodecConfig(**sizes)), ClipShards(played), tmp_path, Windows(num_frames=8))
    stills = Emu3Tokenizer(Emu3CodecConfig(**sizes, pictures=True))
    assert encode_shards(stills, ClipShards(played), tmp_path / "stills", Windows(num_frames=8)) > 0
