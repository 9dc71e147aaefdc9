"""Keys and axes of a model that is played: what they change, how they are written, and what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelm.core.controls import ControlTrack, read_written
from reelm.core.errors import ReelmError
from reelm.generation.held import read_track
from reelm.generation.video import Video
from reelm.tests.examples import examples

HELD = "a-3,a+jump-2,none-4,d-5"  # 14 pictures
TURNS = [0.0, 8.0, -8.0, 2.0, *[0.0] * 10]


def same(one, other):
    assert np.array_equal(one.tokens, other.tokens) and np.array_equal(one.frames, other.frames)
    assert all(np.array_equal(one.segments[name], other.segments[name]) for name in ("keys", "turn"))


def test_the_clip_ends_with_the_picture_in_which_the_last_keys_show(played_generator):
    video = played_generator.generate("a red ball", seed=1, keys=HELD, axes={"turn": TURNS})
    assert len(video.frames) == 15
    # a is 1, jump 4, d 2; frame 0 is a latent frame by itself, before which nothing is held.
    assert video.segments["keys"].tolist() == [[0, 0], [1, 1], [1, 5], [5, 0], [0, 0], [0, 2], [2, 2], [2, 2]]
    assert video.segments["turn"].flatten().tolist() == [7, 7, 7, 14, 0, 9, *[7] * 10]
    longer = played_generator.generate("a red ball", seed=1, keys=f"{HELD},a-1", axes={"turn": [*TURNS, 0.0]})
    assert len(longer.frames) == 17  # up to a whole latent frame


@pytest.mark.parametrize("picture", [0, 1, 6, 7])
def test_one_key_moved_by_one_picture_changes_its_latent_frame_and_none_before(played_generator, picture):
    held, options = [set() for _ in range(14)], {"seed": 1, "guidance_scale": 1.0, "temperature": 3.0}
    before = played_generator.generate("a red ball", keys=held, **options)
    held[picture] = {"jump"}
    after = played_generator.generate("a red ball", keys=held, **options)
    differ = (before.frames != after.frames).any((1, 2, 3))
    shows = 1 + picture
    first = 1 + (shows - 1) // 2 * 2  # the first picture of the latent frame
    assert not differ[:first].any() and differ[first : first + 2].any()


def test_all_forms_say_the_same(played_generator):
    controller = played_generator.parts.config.lm.controller
    track = read_written(HELD)
    array = np.array([[name in held for name in controller.keys] for held in track.keys])
    forms = [HELD, track, list(track.keys), [sorted(held) for held in track.keys], array, torch.from_numpy(array).int(),
             ["+".join(held) or "none" for held in track.keys]]  # fmt: skip
    assert all(read_track(controller, form, None) == track for form in forms)
    turned = ControlTrack(track.keys, {"turn": tuple(TURNS)})
    for axes in ({"turn": TURNS}, {"turn": np.array(TURNS)}, {"turn": torch.tensor(TURNS)}):
        assert read_track(controller, HELD, axes) == turned
    assert read_track(controller, turned, None) == turned
    assert read_track(controller, None, {"turn": TURNS}).keys == (frozenset(),) * 14


def test_decoders_batches_streams_and_continuations_draw_the_same_tokens(played_generator, tmp_path):
    options = {"keys": HELD, "axes": {"turn": TURNS}, "guidance_scale": 2.0, "temperature": 1.0}
    whole = played_generator.generate("a red ball", seed=3, **options)
    for decoder in ({"decoder": "sequential"}, {"decoder": "jacobi", "block_size": 5}, {"decoder": "jacobi"}):
        same(played_generator.generate("a red ball", seed=3, **options, **decoder), whole)
    batch = played_generator.generate(["a blue ring", "a red ball"], seed=[1, 3], **options)
    same(batch[1], whole)
    stream = played_generator.stream("a red ball", seed=3, num_frames=15, **options)
    assert np.array_equal(np.concatenate(list(stream)), whole.frames)
    part = played_generator.generate(
        "a red ball", seed=3, **options | {"keys": "a-3,a+jump-1", "axes": {"turn": TURNS[:4]}}
    )
    rest = {"keys": "a+jump-1,none-4,d-5", "axes": {"turn": TURNS[4:]}}
    same(played_generator.continue_clip(part, **rest), whole)
    part.save(tmp_path / "part.mp4")
    same(played_generator.continue_clip(tmp_path / "part.mp4", **rest), whole)


def test_a_picture_is_continued_under_keys(played_generator):
    picture = np.full((32, 48, 3), 90, np.uint8)
    one, other = (played_generator.continue_clip(image=picture, keys=keys, seed=1) for keys in ("a-6", "d-6"))
    assert len(one.frames) == len(other.frames) == 7
    assert one.segments["keys"].tolist() == [[0, 0], [1, 1], [1, 1], [1, 1]]
    assert not np.array_equal(one.tokens, other.tokens)


@examples(40)
@given(st.lists(st.frozensets(st.sampled_from(["a", "d", "jump"])), min_size=1, max_size=20))
def test_what_was_held_is_read_back_from_its_written_form(held):
    track = ControlTrack(tuple(held))
    assert read_written(track.written) == track


@pytest.mark.parametrize(("options", "message"), [
    ({"keys": "jum-3"}, r"^keys: must be of a, d, jump \(did you mean 'jump'\?\), got 'jum'"),
    ({"keys": [{"w"}]}, "^keys: must be of a, d, jump, got 'w'"),
    ({"keys": "a"}, '^keys: must be keys and numbers of pictures, such as "w-24'),
    ({"keys": "a-0"}, "^keys: must be keys and numbers of pictures"), ({"keys": ""}, "^keys: must be keys and numbers"),
    ({"keys": 3}, "^keys: must be written, or a set of names"), ({"keys": [{1}]}, "^keys: must be sets of names"),
    ({"keys": np.zeros((4, 2))}, r"^keys: must be an array \(n, 3\) of 0 and 1"),
    ({"keys": np.full((4, 3), 2)}, r"^keys: must be an array \(n, 3\) of 0 and 1"),
    ({"axes": {"turm": [1.0]}}, r"^keys: must be of turn \(did you mean 'turn'\?\), got 'turm'"),
    ({"axes": {}}, "^axes: must be lists of turns"), ({"axes": {"turn": ["x"]}}, r"^axes\['turn'\]: must be a list"),
    ({"axes": {"turn": [float("nan")]}}, "^turn: must be finite numbers"),
    ({"keys": "a-3", "axes": {"turn": [1.0]}}, "^turn: must have 3 values, one a picture, got 1"),
    ({"keys": "a-3", "num_frames": 9}, "^keys, axes: must be held for each frame but the last: the clip has 9, got 3"),
    ({"keys": "a-3", "seconds": 2}, "^keys, axes: must be held for each frame but the last: the clip has 16, got 3"),
    ({"keys": "a-3", "controls": {"keys": [[1, 1]]}}, "^controls: must not be given with keys or axes"),
])  # fmt: skip
def test_what_cannot_be_held_is_refused(played_generator, options, message):
    with pytest.raises(ReelmError, match=message):
        played_generator.generate("a red ball", **options)


def test_a_model_without_keys_refuses_them(debug_generator):
    for name, value in (("keys", "a-3"), ("axes", {"turn": [1.0]})):
        with pytest.raises(ReelmError, match=f"^{name}: must not be given: this model is not played"):
            debug_generator.generate("a red ball", **{name: value})


def test_a_clip_keeps_its_keys_in_its_file(played_generator, tmp_path):
    video = played_generator.generate("a red ball", seed=1, keys=HELD)
    video.save(tmp_path / "held.mp4")
    assert np.array_equal(Video.load(tmp_path / "held.mp4").segments["keys"], video.segments["keys"])
