"""Numbers of numpy, torch and others become Python's once, wherever a number is taken."""

import json
import warnings
from decimal import Decimal
from fractions import Fraction
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from reelm import Video
from reelm.core.condition import Embedding, Frames
from reelm.core.config import to_dict
from reelm.core.errors import ReelmError
from reelm.core.plain_values import to_python, to_tensor
from reelm.data.encode import Windows
from reelm.lm.lm_config import LMConfig
from reelm.media.writer import write_clip
from reelm.sampling.plan import SamplingConfig
from reelm.tokenizer.quantizer import QuantizerConfig
from reelm.training.train_config import TrainConfig


class Whole:
    def __index__(self):
        return 3


@pytest.mark.parametrize(("value", "wanted"), [
    (np.uint64(2**63), 2**63), (np.int8(-3), -3), (np.array(3), 3), (torch.tensor(3, dtype=torch.uint8), 3),
    (Whole(), 3),
    (np.float16(0.5), 0.5), (np.longdouble(0.5), 0.5), (torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
    (torch.tensor(0.5, requires_grad=True), 0.5), (Fraction(1, 2), 0.5), (Decimal("0.5"), 0.5), (Fraction(4, 2), 2.0),
    (np.True_, True), (np.array(False), False), (torch.tensor(True), True),
    (np.arange(2), [0, 1]), (torch.tensor([1.0, 2.0]), [1.0, 2.0]), (range(2), [0, 1]), ((np.int64(1), "a"), (1, "a")),
    ([np.int64(1), torch.tensor(2), [Fraction(1, 4)]], [1, 2, [0.25]]), ("7", "7"), (None, None), (True, True),
])  # fmt: skip
def test_numbers_become_those_of_python(value, wanted):
    found = to_python(value)
    assert found == wanted and type(found) is type(wanted)
    if isinstance(wanted, list | tuple):
        assert [type(item) for item in found] == [type(item) for item in wanted]


@pytest.mark.parametrize(
    "value",
    [np.zeros((1, 1)), torch.zeros(2, 2), MagicMock(), print, {"a": np.int64(1)}, torch.zeros((), device="meta")],
)
def test_what_is_no_number_comes_back_as_it_is(value):
    assert to_python(value) is value


@pytest.mark.parametrize("config", [
    SamplingConfig(top_k=np.int64(5), temperature=np.float32(0.5), top_p=Fraction(1, 2), min_p=torch.tensor(0.25)),
    TrainConfig(steps=np.int64(5), learning_rate=np.float32(0.5)), LMConfig(vocab_size=torch.tensor(25)),
    QuantizerConfig(levels=np.array([5, 5])), Windows(num_frames=np.int16(5)),
], ids=lambda config: type(config).__name__)  # fmt: skip
def test_configs_hold_numbers_of_python(config):
    values = to_dict(config)
    assert json.loads(json.dumps(values)) == json.loads(json.dumps(to_dict(type(config)(**vars(config)))))
    assert all(type(value) in (bool, int, float, str, tuple, type(None), dict) for value in values.values())


def test_a_bool_is_no_number_of_a_config():
    with pytest.raises(ReelmError, match=r"^top_k: must be"):
        SamplingConfig(top_k=np.float64(3.0))  # as `operator.index` refuses a whole float


@pytest.mark.parametrize("fps", [np.float32(8), np.array(8), torch.tensor(8.0), Fraction(8), Decimal(8), np.int64(8)])
def test_rates_of_clips(fps, tmp_path):
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    video = Video(frames, fps, seed=np.int64(4), settings={"a": np.arange(2), "b": torch.tensor(0.5)})
    assert (video.fps, video.seed) == (8.0, 4) and (type(video.fps), type(video.seed)) == (float, int)
    assert Video.load(video.save(tmp_path / "a.mkv")).settings == {"a": [0, 1], "b": 0.5}
    assert Video.load(write_clip(tmp_path / "b.mkv", frames, fps)).fps == 8


def test_arrays_that_may_not_be_written_are_copied():
    frozen = np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3)
    frozen.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for array in (frozen, frozen[:, ::-1], np.broadcast_to(frozen[:, :1], (1, 2, 4, 3)), frozen.astype(">i4")):
            tensor = to_tensor(array)
            assert np.array_equal(tensor.numpy(), array)
            tensor.zero_()
        assert torch.equal(Frames(frozen).frames_THW3, torch.arange(24, dtype=torch.uint8).view(1, 2, 4, 3))
        assert Embedding(np.broadcast_to(np.float32(1), (2, 3))).states_SD.sum() == 6
    assert frozen.sum() == 276
    mine = np.zeros(2, np.uint8)
    to_tensor(mine).fill_(1)
    assert mine.sum() == 2  # no copy where none is needed
    with pytest.raises(ReelmError, match=r"^frames_THW3: must be a tensor or an array, got 'list'"):
        Frames([[1]])


def test_a_read_only_clip_is_continued_without_a_warning(debug_generator):
    video = debug_generator.generate("a red ball moves left", seed=1, num_frames=5)
    wanted = debug_generator.continue_clip(video, num_frames=4)
    for array in (video.frames, video.tokens):
        array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        video.state = None
        assert np.array_equal(debug_generator.continue_clip(video, num_frames=4).tokens, wanted.tokens)
        plain = Video(video.frames[::-1], 8.0)
        assert len(debug_generator.continue_clip(plain, num_frames=4).tokens) == 3
        assert debug_generator.drift(video.tokens) == debug_generator.drift(wanted.tokens[:2])
