"""A continued clip keeps the given part: its size, its rate, its frames and its packets of sound."""

import av
import numpy as np
import pytest
from PIL import Image

from reelm.core.errors import ReelmError
from reelm.generation.kept_source import KeptSource
from reelm.generation.video import Video
from reelm.media.extending import ExtendedFrames
from reelm.media.sound import find_sound
from reelm.media.writer import write_clip
from reelm.tests.media.files import numbered, with_sound, write_video

TEMPORAL = 4


def packets_of(path):
    """The (seconds after the first picture, bytes) of the packets of the sound."""
    with av.open(str(path)) as container:
        first = min(
            float(each.pts * each.time_base) for each in container.demux(video=0) if each.pts is not None and each.size
        )
    with av.open(str(path)) as container:
        packets = [each for each in container.demux(audio=0) if each.size]
        return [(float(each.pts * each.time_base) - first, bytes(each)) for each in packets]


def continued(generator, source, **options):
    return source.extend(generator.continue_clip(source.clip, fit=source.fit, num_frames=TEMPORAL, seed=1, **options))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_the_given_part_keeps_its_size_its_rate_and_its_sound(debug_generator, tmp_path, suffix, capsys):
    write_video(tmp_path / "silent.mp4", numbered(25, 96, 64), fps=25)
    path = with_sound(tmp_path / "a.mp4", tmp_path / "silent.mp4")
    source = KeptSource(path, fps=debug_generator.fps)
    source.check(tmp_path / f"b{suffix}")
    extended = continued(debug_generator, source)
    written = extended.save(tmp_path / f"b{suffix}")
    loaded = Video.load(written)
    # Four frames at 8 frames a second are half a second.
    assert extended.shape == loaded.frames.shape[:3] == (25 + 13, 96, 64)
    assert loaded.fps == extended.fps == 25
    assert extended.stats["new_frames"] == 13
    error = np.abs(loaded.frames[:25].astype(int) - source.clip.frames)
    assert error.max() == 0 if suffix == ".mkv" else error.mean() < 1.5
    given, kept = packets_of(path), packets_of(written)
    assert 0 < len(kept) < len(given)
    assert [data for _, data in kept] == [data for _, data in given[: len(kept)]]
    assert np.allclose([start for start, _ in kept], [start for start, _ in given[: len(kept)]], atol=2e-3)
    assert kept[-1][0] < 1.0 <= given[len(kept)][0] + 1e-3
    # The clip can be continued once more, as any other clip of its size.
    assert (loaded.tokens, loaded.seed) == (None, 1)
    assert "sound" not in capsys.readouterr().err


def test_sound_that_begins_before_the_pictures_is_cut_there_too(debug_generator, tmp_path):
    write_video(tmp_path / "silent.mp4", numbered(8, 32, 48), fps=8)
    path = with_sound(tmp_path / "a.mkv", tmp_path / "silent.mp4", before=0.75)
    assert find_sound(path).codec == "aac"
    source = KeptSource(path, fps=8)
    written = continued(debug_generator, source).save(tmp_path / "b.mp4")
    given, kept = dict((data, start) for start, data in packets_of(path)), packets_of(written)
    assert all(abs(given[data] - start) < 2e-3 for start, data in kept)  # none is moved
    assert -0.3 < kept[0][0] < 0 < 0.8 < kept[-1][0] < 1.0


def test_a_varying_rate_is_that_of_the_moving_parts(debug_generator, tmp_path):
    seconds = [*np.arange(10) / 20, *(0.9 + np.arange(10) / 20)]
    path = write_video(tmp_path / "a.mkv", numbered(20), fps=20, seconds=seconds, codec="ffv1", pix_fmt="bgr0")
    source = KeptSource(path, fps=8)
    loaded = Video.load(continued(debug_generator, source).save(tmp_path / "b.mkv"))
    assert loaded.fps == pytest.approx(20)
    held = Video.load(path)
    assert len(held.frames) == 28  # the tenth is held for 0.45 seconds
    assert np.array_equal(loaded.frames[:28], held.frames)
    assert len(loaded.frames) == 28 + 10


def test_a_turned_clip_is_upright(debug_generator, tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered(9, 64, 96))
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 4 + 4 * 5 + 8 + 8
    one, quarter = 2**16, np.array([0, 2**16, 0, -(2**16), 0, 0, 0, 0, 2**30], ">i4").tobytes()
    assert data[place : place + 4] == one.to_bytes(4, "big")
    data[place : place + 36] = quarter
    path.write_bytes(data)
    source = KeptSource(path, fps=8)
    loaded = Video.load(continued(debug_generator, source).save(tmp_path / "b.mkv"))
    assert loaded.frames.shape == (9 + TEMPORAL, 96, 64, 3)
    assert np.array_equal(loaded.frames[:9], source.clip.frames)


def test_sound_that_the_format_cannot_hold_is_refused_by_name(tmp_path):
    write_video(tmp_path / "silent.mp4", numbered(8), fps=8)
    path = with_sound(tmp_path / "a.mkv", tmp_path / "silent.mp4", codecs=("tta",))
    source = KeptSource(path, fps=8)
    source.check(tmp_path / "b.mkv")
    for name, holder in (("b.mp4", ".mkv"), ("b.gif", ".mkv"), ("folder", ".mkv")):
        with pytest.raises(ReelmError, match=f"^output: .*'tta'; choose {holder}"):
            source.check(tmp_path / name)
    path = with_sound(tmp_path / "c.mp4", tmp_path / "silent.mp4")
    with pytest.raises(ReelmError, match=r"'aac'; choose \.mp4 or \.mkv"):
        KeptSource(path, fps=8).check(tmp_path / "b.webp")
    assert {each.name for each in tmp_path.iterdir()} == {"silent.mp4", "a.mkv", "c.mp4"}


def test_of_several_sounds_one_is_kept_and_said(tmp_path, capsys):
    write_video(tmp_path / "silent.mp4", numbered(8), fps=8)
    KeptSource(with_sound(tmp_path / "a.mp4", tmp_path / "silent.mp4", codecs=("aac", "aac")), fps=8)
    assert "of its 2 sounds, the one that a player plays is kept" in capsys.readouterr().err


def test_rates_beyond_the_format_are_refused_before_anything_is_computed(tmp_path):
    write_clip(tmp_path / "fast.mkv", np.zeros((8, 32, 48, 3), np.uint8), 60)
    with pytest.raises(ReelmError, match=r"^fps: must be from 0\.01 to 50 in \.gif"):
        KeptSource(tmp_path / "fast.mkv", fps=8).check(tmp_path / "b.gif")


def test_stills_and_folders_have_the_rate_of_the_model(debug_generator, tmp_path):
    pictures = numbered(3, 50, 70)
    Image.fromarray(pictures[0]).save(tmp_path / "still.png")
    (tmp_path / "folder").mkdir()
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / "folder" / f"{number}.png")
    for name, count in (("still.png", 1), ("folder", 3)):
        source = KeptSource(tmp_path / name, fps=debug_generator.fps)
        assert source.sound is None
        loaded = Video.load(continued(debug_generator, source).save(tmp_path / f"{name}.mkv"))
        assert loaded.frames.shape == (count + TEMPORAL, 50, 70, 3)
        assert loaded.fps == 8
        assert np.array_equal(loaded.frames[:count], pictures[:count])


def test_a_clip_of_the_model_stays_as_it_is(debug_generator, tmp_path):
    video = debug_generator.generate("a red ball", num_frames=5, seed=3)
    path = video.save(tmp_path / "a.mkv")
    loaded = Video.load(continued(debug_generator, KeptSource(path, fps=8)).save(tmp_path / "b.mkv"))
    wanted = debug_generator.continue_clip(path, num_frames=TEMPORAL, seed=1)
    assert np.array_equal(loaded.frames, wanted.frames)
    assert np.array_equal(loaded.tokens, wanted.tokens)
    # Sound that another program has added is kept, and so are the tokens.
    video.save(tmp_path / "c.mp4")
    heard = with_sound(tmp_path / "d.mkv", tmp_path / "c.mp4")
    assert find_sound(continued(debug_generator, KeptSource(heard, fps=8)).save(tmp_path / "e.mkv")) is not None


def test_bars_are_cut_off_and_a_crop_is_what_the_model_saw(debug_generator, tmp_path, capsys):
    path = write_clip(tmp_path / "tall.mkv", np.full((5, 120, 60, 3), 200, np.uint8), 8)
    sizes = {}
    for fit in ("pad", "crop", "stretch"):
        source = KeptSource(path, fps=8, fit=fit)
        extended = continued(debug_generator, source)
        sizes[fit] = source.extend(extended.video).shape
    assert sizes == {"pad": (9, 120, 60), "crop": (9, 40, 60), "stretch": (9, 120, 60)}
    assert capsys.readouterr().err.count("60x40 of 60x120 are kept, the part that the model sees") == 1
    # A picture 32 high and 16 wide between bars of another colour than its own.
    new_THW3 = np.zeros((2, 32, 48, 3), np.uint8)
    new_THW3[:, :, 16:32] = 200
    extended = ExtendedFrames(np.full((5, 120, 60, 3), 200, np.uint8), 8.0, new_THW3, 8.0, "pad")
    assert all((part == 200).all() for part in extended.parts())


def test_the_new_part_is_scaled_by_lanczos_and_repeated():
    new_THW3 = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), np.uint8)
    extended = ExtendedFrames(np.zeros((5, 64, 96, 3), np.uint8), 24.0, new_THW3, 8.0, "stretch")
    frames = np.concatenate(list(extended.parts()))
    assert frames.shape[:3] == extended.shape == (5 + 6, 64, 96)
    for index, frame in enumerate(frames[5:]):
        wanted = Image.fromarray(new_THW3[index // 3]).resize((96, 64), Image.Resampling.LANCZOS)
        assert np.array_equal(frame, wanted)


def test_a_session_has_no_pictures_to_keep(tmp_path):
    with pytest.raises(ReelmError, match=r"^keep_source: must be given with a clip"):
        KeptSource(tmp_path / "a.session.safetensors", fps=8)
    with pytest.raises(ReelmError, match=r"^clip: must be an existing file or folder"):
        KeptSource(tmp_path / "none.mp4", fps=8)
    with pytest.raises(ReelmError, match=r"^fit: "):
        KeptSource(tmp_path / "none.mp4", fps=8, fit="zoom")


def test_a_recording_that_is_joined_to_another_keeps_both_sounds(tmp_path):
    write_video(tmp_path / "silent.mp4", numbered(25), fps=25)
    one = with_sound(tmp_path / "a.ts", tmp_path / "silent.mp4", codecs=("mp2",), seconds=1.0).read_bytes()
    (tmp_path / "both.ts").write_bytes(one + one)
    source = KeptSource(tmp_path / "both.ts", fps=8)
    given = len(packets_of(tmp_path / "a.ts"))
    video = Video(np.zeros((9, 32, 48, 3), np.uint8), 8.0, stats={"new_frames": 4})
    kept = packets_of(source.extend(video).save(tmp_path / "b.mp4"))
    assert len(kept) >= 2 * given - 3
    assert (np.diff([start for start, _ in kept]) < 0.1).all()


def test_lost_sound_is_said_where_a_path_is_continued_and_only_there(debug_generator, tmp_path, capsys):
    write_video(tmp_path / "silent.mp4", numbered(9), fps=8)
    path = with_sound(tmp_path / "a.mp4", tmp_path / "silent.mp4")
    video = debug_generator.continue_clip(path, num_frames=TEMPORAL)
    assert capsys.readouterr().err.count("a.mp4: its sound is not in the output") == 1
    session = video.state.save(tmp_path / "a.session.safetensors")
    for clip in (tmp_path / "silent.mp4", session, np.zeros((1, 32, 48, 3), np.uint8)):
        debug_generator.continue_clip(clip, num_frames=TEMPORAL)
    debug_generator.score(path)
    assert "sound" not in capsys.readouterr().err
