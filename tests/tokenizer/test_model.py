import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reelm.core.errors import ReelmError
from reelm.tokenizer.model import TokenizerConfig, VideoTokenizer
from reelm.tokenizer.quantizer import QuantizerConfig

SMALL = {"encoder_width": 12, "decoder_widths": (16, 8), "decoder_depth": (2, 1), "decoder_memory": 2,
         "quantizer": QuantizerConfig(levels=(5, 5, 3))}  # fmt: skip


def make(**changes):
    torch.manual_seed(0)
    model = VideoTokenizer(TokenizerConfig(**(SMALL | changes))).eval().requires_grad_(False)
    for parameter in model.parameters():  # residual branches start at zero: give them something to do
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.5 / parameter[0].numel() ** 0.5)
    return model


def clip(frames=9, height=24, width=32, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (batch, frames, height, width, 3), generator=generator, dtype=torch.uint8)


@given(st.integers(0, 5), st.integers(1, 3), st.integers(1, 4), st.sampled_from([8, 16]))
@settings(max_examples=15, deadline=None)
def test_any_length_and_size_that_the_stride_divides(groups, rows, columns, stride):
    model = make(spatial=stride)
    frames = clip(1 + 4 * groups, rows * stride, columns * stride, batch=1)
    tokens = model.encode(frames)
    assert tokens.shape == (1, 1 + groups, rows, columns)
    assert model.decode(tokens).shape == frames.shape


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_streaming_equals_one_shot(sizes, seed):
    model = make()
    frames = clip(1 + 4 * (sum(sizes) - 1), seed=seed)
    tokens = model.encode(frames)
    starts, streamed = 0, []
    for index, size in enumerate(sizes):
        count = 4 * size - (3 if index == 0 else 0)
        streamed.append(model.encode_chunk(frames[:, starts : starts + count], first=index == 0))
        starts += count
    assert torch.equal(torch.cat(streamed, 1), tokens)
    cache, decoded = None, []
    for part in tokens.split(sizes, 1):
        out, cache = model.decode_chunk(part, cache)
        decoded.append(out)
    whole = model.decode(tokens)
    assert (torch.cat(decoded, 1) - whole).abs().max() < 1e-5
    assert whole.std() > 0.01


def test_no_gradient_from_a_frame_to_earlier_ones():
    model = make().requires_grad_(True)
    frames = (clip(13, batch=1).float() / 255).requires_grad_()
    reconstruction, _, _ = model(frames)
    reconstruction[:, 5:9].square().sum().backward()  # latent frame 2
    reach = frames.grad.abs().amax((0, 2, 3, 4)) > 0
    assert reach[:9].all()
    assert not reach[9:].any()


def test_the_encoder_sees_its_cell_and_half_a_cell_around_it():
    model = make().requires_grad_(True)
    frames = (clip(5, 40, 40, batch=1).float() / 255).requires_grad_()
    latents = model.encoder(model._group(frames, first=True)).unflatten(0, (1, 2))
    latents[0, 1, :, 2, 2].square().sum().backward()
    reach = frames.grad[0].abs().amax(-1) > 0
    assert reach[1:, 12:28, 12:28].all()
    reach[1:, 12:28, 12:28] = False
    assert not reach.any()


def test_a_still_clip_keeps_its_tokens():
    model = make()
    frames = clip(1).expand(-1, 17, -1, -1, -1)
    tokens = model.encode(frames)
    assert torch.equal(tokens, tokens[:, :1].expand_as(tokens))
    assert tokens.unique().numel() > 3


@pytest.mark.parametrize("memory", [0, 1, 2])
def test_the_decoder_remembers_two_latent_frames_for_each_temporal_layer(memory):
    model = make(decoder_memory=memory)
    tokens = model.encode(clip(33, batch=1))
    other = tokens.clone()
    other[:, 1] = (other[:, 1] + 1) % model.vocab_size
    changed = (model.decode(tokens) != model.decode(other)).any(-1).any(-1).any(-1)[0]
    frames = [t for t in range(33) if changed[t]]
    assert frames == list(range(1, 1 + 4 * (1 + model.memory)))
    assert model.memory == 2 * memory


@pytest.mark.parametrize("change", [
    {"temporal": 2}, {"encoder_width": 8}, {"decoder_widths": (8, 8)}, {"decoder_depth": (2, 2)}, {"decoder_memory": 1},
    {"quantizer": QuantizerConfig(levels=(5, 3, 3))},
])  # fmt: skip
def test_every_option_changes_the_result(change):
    frames = clip()
    plain, other = make(), make(**change)
    assert not torch.equal(plain.decode(plain.encode(frames)), other.decode(other.encode(frames)))


@pytest.mark.parametrize("change", [
    {"temporal": 0}, {"spatial": 12}, {"decoder_widths": ()}, {"decoder_depth": (1,)}, {"decoder_memory": 3},
    {"encoder_width": 0},
])  # fmt: skip
def test_sizes_that_cannot_be_are_refused(change):
    with pytest.raises(ReelmError, match=next(iter(change))):
        TokenizerConfig(**(SMALL | change))


@pytest.mark.parametrize(
    ("shape", "argument"), [((8, 24, 32), "num_frames"), ((9, 25, 32), "height"), ((9, 24, 4), "width")]
)
def test_clips_that_the_stride_does_not_divide_are_refused(shape, argument):
    with pytest.raises(ReelmError, match=argument):
        make().encode(clip(*shape))


def test_floats_and_bytes_are_the_same_clip():
    model, frames = make(), clip()
    assert torch.equal(model.encode(frames), model.encode(frames.float() / 255))
