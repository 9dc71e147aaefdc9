"""Files that are written from Python as the commands write them: streams, and sessions beside clips."""

import numpy as np
import pytest

from reelm.core.errors import ReelmError
from reelm.generation.session import SessionState
from reelm.generation.session_files import SessionFiles
from reelm.generation.stream_file import write_stream
from reelm.generation.video import Video


def test_a_stream_in_a_file_is_the_clip_that_generate_makes(debug_generator, tmp_path, capsys):
    written = write_stream(debug_generator.stream("a red ball", num_frames=9, seed=3), tmp_path / "a.mkv")
    wanted, video = debug_generator.generate("a red ball", num_frames=9, seed=3), Video.load(tmp_path / "a.mkv")
    assert np.array_equal(video.frames, wanted.frames) and np.array_equal(video.tokens, wanted.tokens)
    assert (written.frames, written.height, written.width, written.seconds) == (9, 32, 48, 9 / 8)
    assert (written.prompt, written.seed, written.settings) == ("a red ball", 3, wanted.settings)
    assert (written.tokens, written.path) == (wanted.tokens.size, tmp_path / "a.mkv")
    assert capsys.readouterr().out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["a.mkv"]


def test_a_stream_stops_after_the_latent_frame_that_it_is_asked_at(debug_generator, tmp_path):
    asked = iter([False, True])
    written = write_stream(debug_generator.stream("a red ball", seed=3), tmp_path / "a.mkv", stop=lambda: next(asked))
    assert written.frames == 5 == len(Video.load(tmp_path / "a.mkv").frames)
    assert len(Video.load(tmp_path / "a.mkv").tokens) == 2


def test_what_write_stream_refuses_before_anything_is_drawn(debug_generator, tmp_path):
    stream = debug_generator.stream("a red ball", num_frames=9, seed=3)
    with pytest.raises(ReelmError, match=r"output: must end in .mp4 or .mkv"):
        write_stream(stream, tmp_path / "a.gif")
    assert len(stream.tokens) == 0
    next(stream)
    with pytest.raises(ReelmError, match="stream: must be at its beginning, got '1 latent frames on'"):
        write_stream(stream, tmp_path / "a.mkv")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("save_state", [True, False])
def test_a_session_lies_beside_its_clip_until_that_is_written(save_state, debug_generator, tmp_path, capsys):
    path = tmp_path / "a.session.safetensors"
    with SessionFiles([tmp_path / "a.mkv"], save_state=save_state) as sessions:
        video = debug_generator.generate("a red ball", num_frames=5, seed=3, callback_on_tokens=sessions.save)
        assert np.array_equal(SessionState.load(path).tokens_thw.numpy(), video.tokens)
    assert sessions.kept == ([path] if save_state else [])
    assert path.exists() == save_state
    with pytest.raises(OSError, match="full"), SessionFiles([tmp_path / "b.mkv"]) as sessions:
        debug_generator.generate("a red ball", num_frames=1, seed=3, callback_on_tokens=sessions.save)
        raise OSError("full")
    assert (tmp_path / "b.session.safetensors").exists()
    assert "the tokens are safe: reelm decode " in capsys.readouterr().err
