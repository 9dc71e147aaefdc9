import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelm.core.errors import ReelmError
from reelm.tests.examples import examples
from reelm.tokenizer.long import decode_long
from reelm.tokenizer.quantizer import QuantizerConfig
from reelm.tokenizer.tokenizer_config import TokenizerConfig
from reelm.tokenizer.video_tokenizer import VideoTokenizer

SMALL = {"encoder_width": 12, "decoder_widths": (16, 8), "decoder_depth": (2, 1), "decoder_memory": 2,
         "quantizer": QuantizerConfig(levels=(5, 5, 3))}  # fmt: skip


# As the presets for natural video are.
NATURAL = {**SMALL, "front": "haar", "encoder_depth": 3, "encoder_spread": 1, "encoder_memory": 2}


def test_the_id_of_its_tokens_is_that_of_all_that_makes_them():
    ids = set()
    for levels, decoder in (((8, 5), (8,)), ((5, 8), (8,)), ((8, 5), (16,))):
        torch.manual_seed(0)
        config = TokenizerConfig(encoder_width=8, decoder_widths=decoder, decoder_depth=(1,),
                                 quantizer=QuantizerConfig(levels=levels))  # fmt: skip
        tokenizer = VideoTokenizer(config)
        ids.add(tokenizer.tokens_id)
        with torch.no_grad():
            next(tokenizer.decoder.parameters()).add_(1)
        assert tokenizer.tokens_id in ids
        next(tokenizer.encoder.parameters()).data.add_(1)
        assert tokenizer.tokens_id not in ids
    assert len(ids) == 2  # the decoder is no part of it


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
@examples(15)
def test_any_length_and_size_that_the_stride_divides(groups, rows, columns, stride):
    model = make(spatial=stride)
    frames = clip(1 + 4 * groups, rows * stride, columns * stride, batch=1)
    tokens = model.encode(frames)
    assert tokens.shape == (1, 1 + groups, rows, columns)
    assert model.decode(tokens).shape == frames.shape


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.sampled_from([SMALL, NATURAL]), st.integers(0, 99))
@examples(30)
def test_streaming_equals_one_shot(sizes, kind, seed):
    """So there is no seam where chunks meet: the PSNR there is that of the clip made at once."""
    model = make(**kind)
    frames = clip(1 + 4 * (sum(sizes) - 1), seed=seed)
    tokens = model.encode(frames)
    starts, streamed, state = 0, [], None
    for size in sizes:
        count = 4 * size - (3 if state is None else 0)
        part, state = model.encode_chunk(frames[:, starts : starts + count], state)
        streamed.append(part)
        starts += count
    assert torch.equal(torch.cat(streamed, 1), tokens)
    state, decoded = None, []
    for part in tokens.split(sizes, 1):
        out, state = model.decode_chunk(part, state)
        decoded.append(out)
    whole = model.decode(tokens)
    assert (torch.cat(decoded, 1) - whole).abs().max() < 1e-5
    assert whole.std() > 0.01


@pytest.mark.parametrize("kind", [SMALL, NATURAL])
def test_no_gradient_from_a_frame_to_earlier_ones(kind):
    model = make(**kind).requires_grad_(True).train()
    frames = (clip(13, batch=1).float() / 255).requires_grad_()
    reconstruction, _, _ = model(frames)
    reconstruction[:, 5:9].square().sum().backward()  # latent frame 2
    reach = frames.grad.abs().amax((0, 2, 3, 4)) > 0
    assert reach[:9].all()
    assert not reach[9:].any()


@pytest.mark.parametrize("front", ["patch", "haar"])
@pytest.mark.parametrize("spread", [0, 1, 2])
def test_the_encoder_sees_its_cell_and_half_a_cell_around_it_and_what_spread_adds(front, spread):
    model = make(front=front, encoder_spread=spread).requires_grad_(True)
    frames = (clip(5, 56, 56, batch=1).float() / 255).requires_grad_()
    latents = model.encoder(model._group(frames, first=True), 2, None)[0].unflatten(0, (1, 2))
    latents[0, 1, :, 3, 3].square().sum().backward()
    reach = frames.grad[0].abs().amax(-1) > 0
    seen = slice(20 - 8 * spread, 36 + 8 * spread)
    assert reach[1:, seen, seen].all()
    reach[1:, seen, seen] = False
    assert not reach.any()
    assert model.config.encoder_halo == 1 + spread


@pytest.mark.parametrize(
    ("widths", "depth"), [((8,), (2,)), ((8, 8), (1, 3)), ((8, 8, 4), (2, 2, 1)), ((8, 8), (2, 2))]
)
def test_the_decoder_s_halo_is_its_reach(widths, depth):
    model = make(decoder_widths=widths, decoder_depth=depth, decoder_memory=1).requires_grad_(True)
    halo = model.config.decoder_halo
    side, centre = 2 * halo + 3, halo + 1
    codes = torch.randn(1, 3, side, side, requires_grad=True)
    groups, _ = model.decoder(codes, 1, None)
    groups[:, :, 8 * centre : 8 * centre + 8, 8 * centre : 8 * centre + 8].square().sum().backward()
    reach = codes.grad.abs().amax((0, 1)) > 0
    assert reach[1:-1, 1:-1].all()
    reach[1:-1, 1:-1] = False
    assert not reach.any()


@pytest.mark.parametrize("memory", [0, 1, 2])
def test_the_encoder_remembers_two_latent_frames_for_each_temporal_layer(memory):
    model = make(**(NATURAL | {"encoder_memory": memory}))
    groups = model._group(clip(33, batch=1), first=True)
    other = groups.clone()
    other[1] = -other[1]
    changed = (model.encoder(groups, 9, None)[0] != model.encoder(other, 9, None)[0]).flatten(1).any(1)
    assert changed.nonzero()[:, 0].tolist() == list(range(1, 2 + 2 * memory))


@pytest.mark.parametrize("kind", [SMALL, NATURAL])
def test_a_still_clip_keeps_its_tokens(kind):
    model = make(**kind)
    frames = clip(1).expand(-1, 17, -1, -1, -1)
    tokens = model.encode(frames)
    assert torch.equal(tokens, tokens[:, :1].expand_as(tokens))
    assert tokens.unique().numel() > 3


@pytest.mark.parametrize("kind", [SMALL, NATURAL])
def test_a_still_background_keeps_its_tokens(kind):
    """Something moves in one corner; further from it than the encoder sees, every token stays."""
    model = make(**kind)
    frames = clip(1, 64, 64).repeat(1, 17, 1, 1, 1)
    frames[:, :, :16, :16] = clip(17, 16, 16, seed=1)
    tokens, near = model.encode(frames), 2 + model.config.encoder_halo
    for background in (tokens[:, :, near:], tokens[:, :, :, near:]):
        assert torch.equal(background, background[:, :1].expand_as(background))
    assert not torch.equal(tokens, tokens[:, :1].expand_as(tokens))


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
    {"quantizer": QuantizerConfig(levels=(5, 3, 3))}, {"front": "haar"}, {"encoder_depth": 3}, {"encoder_spread": 1},
    {"encoder_memory": 1},
])  # fmt: skip
def test_every_option_changes_the_result(change):
    frames = clip()
    plain, other = make(), make(**change)
    assert not torch.equal(plain.decode(plain.encode(frames)), other.decode(other.encode(frames)))


@pytest.mark.parametrize("change", [
    {"temporal": 0}, {"spatial": 12}, {"decoder_widths": ()}, {"decoder_depth": (1,)}, {"decoder_memory": 3},
    {"encoder_width": 0}, {"front": "wave"}, {"temporal": 3, "front": "haar"}, {"encoder_depth": -1},
    {"encoder_spread": 3}, {"encoder_memory": 3},
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


@pytest.mark.parametrize(
    ("frames", "size", "argument"),
    [(3, (24, 32), "num_frames"), (0, (24, 32), "num_frames"), (4, (24, 4), "width"), (4, (23, 32), "height")],
)
def test_chunks_that_do_not_fit_are_refused(frames, size, argument):
    model = make()
    _, state = model.encode_chunk(clip(1), None)
    with pytest.raises(ReelmError, match=argument):
        model.encode_chunk(clip(frames, *size), state)


def test_floats_and_bytes_are_the_same_clip():
    model, frames = make(), clip()
    assert torch.equal(model.encode(frames), model.encode(frames.float() / 255))


def test_ids_that_no_code_has_are_refused_and_not_decoded_to_another_picture():
    model = make()
    tokens = model.encode(clip(5))
    for wrong, message in (
        (tokens + 75, r"tokens: must be from 0 to 74, got \(\d+, \d+\)"), (tokens - 75, "must be from 0 to 74, got"),
        (tokens.float(), "tokens: must be whole numbers"), (tokens > 3, "tokens: must be whole numbers"),
        (tokens[0], "tokens: must be \\(batch, t, h, w\\)"), (tokens[:, :0], "tokens: must be"),
    ):  # fmt: skip
        for refuse in (model.decode, lambda wrong: model.decode_chunk(wrong, None)):
            with pytest.raises(ReelmError, match=message):
                refuse(wrong)
    with pytest.raises(ReelmError, match="tokens: must be from 0 to 74"):
        list(decode_long(model, [tokens[0], tokens[0] + 75]))
    for kind in (torch.uint8, torch.int16, torch.int32):
        assert torch.equal(model.decode(tokens.to(kind)), model.decode(tokens))


@pytest.mark.parametrize("kind", ["fsq", "vq", "lfq"])
def test_pixels_and_latents_that_are_no_numbers_are_refused_and_get_no_id(kind):
    model = VideoTokenizer(TokenizerConfig(**SMALL | {"quantizer": QuantizerConfig(kind=kind, codebook_size=16)}))
    frames = clip(5).float() / 255
    model.train()(frames)
    model.eval()
    kept = model.encode(frames)
    assert torch.equal(model.encode(frames.double()), kept) and torch.equal(model.encode(clip(5)), kept)
    for wrong in (torch.nan, torch.inf, -torch.inf, 255.0):
        spoilt = frames.clone()
        spoilt[1, 2, 3, 4, 1] = wrong
        with pytest.raises(ReelmError, match="frames: must be finite values from 0 to 1 where they are float"):
            model.encode(spoilt)
    for wrong in (clip(5).int(), clip(5) > 9):
        with pytest.raises(ReelmError, match=r"frames: must be uint8, or float from 0 to 1, got 'torch\."):
            model.encode(wrong)
    for wrong in (frames[0], frames[..., :1], frames[:0]):
        with pytest.raises(ReelmError, match=r"frames: must be \(batch, frames, height, width, 3\)"):
            model.encode(wrong)
    model.encoder.head[1].bias.data[0] = torch.nan
    with pytest.raises(ReelmError, match="tokenizer: must have weights that give finite latents"):
        model.encode(frames)
