"""A latent frame with more than video: keys that are given, then the video from coarse to fine, then sound to sample.

The model behind it is no transformer and has no keys and values: an MLP over the tokens at a few distances before each
position. Its cache is `TokenHistory` with one tensor of its own. Copy from here to have controls or a second stream.

Files of the library that know of these segments: none. They are two lines of the model's layout (`MoreConfig.layout`).
"""

import dataclasses
import hashlib
import zlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reelm.bench.sampling import benchmark
from reelm.core.checkpoint import load_weights, save_tensors
from reelm.core.condition import Text
from reelm.core.errors import ReelmError
from reelm.core.layout import FrameLayout, Segment
from reelm.core.protocols import Cost, Numerics
from reelm.core.token_history import HISTORY, TokenHistory, gather_rows
from reelm.generation.generator import VideoGenerator
from reelm.generation.pretrained import ModelConfig, save_pretrained
from reelm.generation.session import SessionState
from reelm.generation.video import Video
from reelm.lm.registry import register
from reelm.sampling.diagonal import Diagonal
from reelm.tokenizer.quantizer import QuantizerConfig
from reelm.tokenizer.video_tokenizer import TokenizerConfig, VideoTokenizer


@dataclass(frozen=True, kw_only=True)
class MoreConfig:
    """Sizes of the model: the part "lm" of config.json."""

    kind: ClassVar[str] = "more"
    guidance: ClassVar[None] = None
    window: ClassVar[int] = 2
    vocab_size: int
    rows: int = 4
    columns: int = 4
    width: int = 32

    @property
    def layout(self) -> FrameLayout:
        return FrameLayout((
            Segment(name="keys", shape=(2,), vocab_size=4, given=True, default=1),
            Segment(name="video", shape=(self.rows, self.columns), vocab_size=self.vocab_size, order="coarse"),
            Segment(name="sound", shape=(3,), vocab_size=7),
        ))  # fmt: skip

    @property
    def parameters(self) -> int:
        vocab, sampled, size = self.layout.vocab_size, self.layout.sampled_vocab_size, self.layout.frame_size
        return self.width * (9 * (vocab + 1) + size + 256 + self.width + sampled)

    def cost(self, rows: int, count: int, numerics: Numerics) -> Cost:
        size, itemsize = self.layout.frame_size, numerics.dtype.itemsize
        weights, state, step = self.parameters * itemsize, self.width * itemsize, rows * count * itemsize
        return Cost(
            parameters=self.parameters, weights=weights, loading=weights, cache=rows * (state + 8 * HISTORY * size),
            state=state, step=step * (9 * self.width + self.layout.vocab_size),
            flops=2 * rows * count * self.parameters, read=weights,
        )  # fmt: skip


class MoreCache(TokenHistory):
    """The newest tokens, which is all that the model looks at, and what it has read of each row's prompt."""

    def __init__(self, config: MoreConfig, rows: int, like: torch.Tensor) -> None:
        super().__init__(rows, config.layout.frame_size, like.device)
        self.prompt_BD = like.new_zeros(rows, config.width)

    def arrange(self, sources):
        super().arrange(sources)
        self.prompt_BD = gather_rows(self.prompt_BD, sources)

    def export(self, rows):
        return {"prompt": self.prompt_BD[list(rows)].cpu()}

    def accepts(self, rows, state):
        return set(state) == {"prompt"} and state["prompt"].shape == (rows, self.prompt_BD.shape[1])

    def restore(self, rows, state, tokens_S):
        self.prompt_BD[list(rows)] = state["prompt"].to(self.prompt_BD.device)
        self.restore_tokens(rows, tokens_S)


class MoreModel(nn.Module):
    """It meets `LanguageModel`: a token depends on 9 before it, the keys of its latent frame among them."""

    backend, horizon, reads, guidance, guided = None, None, ("text",), None, None

    def __init__(self, config: MoreConfig) -> None:
        super().__init__()
        self.config, self.layout = config, config.layout
        self.tokens = nn.Embedding(9 * (self.layout.vocab_size + 1), config.width)
        self.places = nn.Embedding(self.layout.frame_size, config.width)
        self.words = nn.Embedding(256, config.width)
        self.inner = nn.Linear(config.width, config.width, bias=False)
        self.head = nn.Linear(config.width, self.layout.sampled_vocab_size, bias=False)

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    @property
    def numerics(self) -> Numerics:
        return Numerics(dtype=self.head.weight.dtype, device=self.device.type)

    def cost(self, rows, count):
        return self.config.cost(rows, count, self.numerics)

    def save(self, folder, store="float16"):
        assert store == "float16"
        save_tensors(folder / "lm.safetensors", {name: x.half() for name, x in self.state_dict().items()})

    @property
    def known_words(self):
        return ()

    def shorten(self, text):
        return text

    def unknown_words(self, text, argument):
        return []

    def make_cache(self, rows, *, ahead=1):
        return MoreCache(self.config, rows, self.head.weight)

    def _read(self, conditions) -> torch.Tensor:
        (text,) = conditions
        ids = torch.tensor([zlib.crc32(word.encode()) % 256 for word in text.text.split()], dtype=torch.int64)
        return self.words(ids.to(self.device)).sum(0)

    @torch.no_grad()
    def condition(self, cache, rows, conditions):
        for row, listed in zip(rows, conditions, strict=True):
            cache.prompt_BD[row] = self._read(listed)

    def _logits(self, tokens_at, positions_BL, prompt_BD) -> torch.Tensor:
        """`tokens_at` gives the tokens at positions, of which only those from 0 on count."""
        size, unknown = self.layout.frame_size, self.layout.vocab_size
        place_BL, x_BLD = positions_BL % size, 0
        # The keys are the first two tokens of a latent frame.
        before = (1, 2, 3, 4, size - 1, size, size + 1, place_BL, (place_BL - 1).clamp(min=1))
        for number, distance in enumerate(before):
            at_BL = positions_BL - distance
            known_BL = (at_BL >= 0) & (at_BL < positions_BL)
            tokens_BL = tokens_at(at_BL.clamp(min=0)).where(known_BL, unknown)
            x_BLD = x_BLD + self.tokens(number * (unknown + 1) + tokens_BL)
        x_BLD = F.gelu(x_BLD + self.places(place_BL) + prompt_BD[:, None])
        return self.head(x_BLD + F.gelu(self.inner(x_BLD)))

    @torch.no_grad()
    def step(self, cache, count=1, offsets=None, sees_LA=None):
        return self._logits(cache.tokens, cache.next_positions(count, offsets), cache.prompt_BD)

    @torch.no_grad()
    def oracle(self, tokens_BS, conditions):
        positions_BS = torch.arange(tokens_BS.shape[1], device=self.device).expand_as(tokens_BS)
        prompt_BD = torch.stack([self._read(listed) for listed in conditions])
        return self._logits(lambda at_BL: tokens_BS.gather(1, at_BL), positions_BS, prompt_BD)


def load_more(config, folder, device, numerics):
    """What the registry loads a checkpoint's model with, and the name of its weights."""
    lm = MoreModel(config)
    load_weights(lm, folder / "lm.safetensors")
    lm.to(device, numerics.dtype).eval().requires_grad_(False)
    return lm, hashlib.sha256((folder / "lm.safetensors").read_bytes()).hexdigest()[:16]


# The proof: a checkpoint of it, and what the product does with that.

RED, BLUE = "a red ball rolls", "a blue ring spins"
KEYS = np.random.default_rng(0).integers(0, 4, (9, 2))


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    register(MoreConfig.kind, MoreConfig, load_more)
    torch.manual_seed(0)
    tokenizer = TokenizerConfig(encoder_width=16, decoder_widths=(16, 8), decoder_depth=(2, 1),
                                quantizer=QuantizerConfig(levels=(5, 5)))  # fmt: skip
    lm = MoreConfig(vocab_size=25)
    config = ModelConfig(format=1, fps=8.0, height=32, width=32, tokenizer=tokenizer, lm=lm)
    model = MoreModel(lm)
    for weight in model.parameters():  # large, so that keys, prompt and past do change the tokens
        nn.init.normal_(weight, std=0.4)
    folder = tmp_path_factory.mktemp("more")
    save_pretrained(folder, config, VideoTokenizer(tokenizer), model)
    return VideoGenerator.from_pretrained(folder, device="cpu")


def grids(clip):
    """The tokens of all segments of a clip or stream."""
    return {"video": clip.tokens, **clip.segments}


def same(clip, other, frames=None):
    return all(np.array_equal(tokens[:frames], grids(other)[name][:frames]) for name, tokens in grids(clip).items())


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_given_tokens_are_as_given_and_drawn_ones_in_their_ranges(generator, scale):
    options = {"controls": {"keys": KEYS[:5]}, "seed": 3, "num_frames": 29, "guidance_scale": scale}
    clip = generator.generate(RED, decoder="sequential", **options)
    assert np.array_equal(clip.segments["keys"], [*KEYS[:5], *[[1, 1]] * 3])  # the default ones after their end
    assert (clip.tokens.shape, clip.segments["sound"].shape) == ((8, 4, 4), (8, 3))
    for name, tokens in grids(clip).items():
        assert tokens.min() >= 0 and tokens.max() < generator.parts.lm.layout[name].vocab_size
    assert len(np.unique(clip.segments["sound"])) > 2 and len(np.unique(clip.tokens)) > 9
    for block in (5, 42):
        assert same(clip, generator.generate(RED, decoder="jacobi", block_size=block, **options))
    hot = generator.generate(RED, **(options | {"temperature": 100.0, "top_k": 36, "min_p": 0.0}))
    assert all(grids(hot)[each.name].max() < each.vocab_size for each in generator.parts.lm.layout.segments)


def test_a_key_changes_the_tokens_from_its_latent_frame_on_and_none_before(generator):
    still = np.ones((9, 2), int)
    plain = generator.generate(RED, seed=3, num_frames=33, controls={"keys": still})
    assert same(plain, generator.generate(RED, seed=3, num_frames=33))  # the default is given where nothing is
    for frame in (0, 4, 5, 8):
        keys = still.copy()
        keys[frame] = 3, 0
        moved = generator.generate(RED, seed=3, num_frames=33, controls={"keys": keys})
        assert same(moved, plain, frame)
        assert not np.array_equal(moved.tokens[frame], plain.tokens[frame])


def test_a_batch_and_a_stream_give_what_each_clip_is_alone(generator):
    options, seeds, lengths = {"controls": {"keys": KEYS}, "guidance_scale": 2.0}, [1, 2, 3], [5, 33, 21]
    batch = generator.generate([RED, BLUE, RED], seed=seeds, num_frames=lengths, batch_size=2, **options)
    for prompt, seed, frames, clip in zip([RED, BLUE, RED], seeds, lengths, batch, strict=True):
        alone = generator.generate(prompt, seed=seed, num_frames=frames, **options)
        stream = generator.stream(prompt, seed=seed, num_frames=frames, **options)
        assert same(clip, alone)
        assert np.array_equal(np.concatenate(list(stream)), alone.frames) and same(stream, alone)


def test_a_stream_is_steered_while_it_runs(generator):
    with generator.stream(RED, seed=3, guidance_scale=1.0) as stream:
        while len(stream.tokens) < 8:
            next(stream)
            if len(stream.tokens) == 3:
                stream.control(controls={"keys": KEYS[:2]})
    given = stream.segments["keys"]
    start = int((given != 1).any(1).argmax())
    # A thread may be a latent frame ahead, and a pass may have begun the one after that.
    assert start in (3, 4, 5) and np.array_equal(given[start : start + 2], KEYS[:2])
    wanted = generator.generate(RED, seed=3, guidance_scale=1.0, num_frames=29, controls={"keys": given})
    assert same(stream, wanted, 8) and not (given[start + 2 :] != 1).any()


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".safetensors"])
@pytest.mark.parametrize("frames", [1, 13])
def test_saved_and_continued_is_never_stopped(generator, tmp_path, suffix, frames):
    before, options = 1 + frames // 4, {"seed": 5, "guidance_scale": 2.0}
    whole = generator.generate(RED, num_frames=frames + 20, controls={"keys": KEYS}, **options)
    start = generator.generate(RED, num_frames=frames, controls={"keys": KEYS}, **options)
    path = (start.state if suffix == ".safetensors" else start).save(tmp_path / f"clip{suffix}")
    read = (SessionState if suffix == ".safetensors" else Video).load(path)
    assert all(np.array_equal(tokens, start.segments[name]) for name, tokens in read.segments.items())
    for source in (start, path):  # what is given now holds from the end of the source on
        longer = generator.continue_clip(source, num_frames=20, controls={"keys": KEYS[before:]})
        assert same(longer, whole, before + 5)
    changed = dataclasses.replace(start, segments=start.segments | {"sound": (start.segments["sound"] + 1) % 7})
    longer = generator.continue_clip(changed, num_frames=20)
    assert same(longer, changed, before) and np.array_equal(longer.segments["keys"][before:], [[1, 1]] * 5)
    assert not np.array_equal(longer.tokens[before], whole.tokens[before])


def test_pictures_from_elsewhere_have_the_default_tokens(generator):
    clip = generator.continue_clip(image=np.zeros((32, 32, 3), np.uint8), num_frames=4, controls={"keys": KEYS[:1]})
    assert np.array_equal(clip.segments["keys"], [[1, 1], KEYS[0]]) and not clip.segments["sound"][0].any()


def test_it_is_scored_decoded_and_measured(generator):
    clip = generator.generate(RED, seed=3, num_frames=13, controls={"keys": KEYS}, guidance_scale=1.0)
    lm, layout = generator.parts.lm, generator.parts.lm.layout
    tokens_tS = layout.pack({name: torch.from_numpy(tokens) for name, tokens in grids(clip).items()})
    logits_tSV = lm.oracle(tokens_tS.view(1, -1), [(Text(RED),)]).view(*tokens_tS.shape, -1)
    allowed_SV = layout.allowed_SV[:, : layout.sampled_vocab_size]
    nats_tSV = -logits_tSV.masked_fill(~allowed_SV, -torch.inf).log_softmax(-1)
    sampled_tS = tokens_tS.where(~layout.given_S, 0)
    wanted_thw = layout.as_grids(nats_tSV.gather(-1, sampled_tS[..., None])[..., 0])["video"]
    assert np.allclose(generator.score(clip).nats_thw, wanted_thw, atol=1e-4)
    assert np.array_equal(generator.decode(clip.state).frames, clip.frames)
    assert len(generator.drift(clip)["windows"]) == 2
    assert lm.cost(1, 1).parameters == sum(weight.numel() for weight in lm.parameters())
    report = benchmark(generator, check=True, baselines=False)
    assert all(row["ok"] and not row["mismatching_tokens"] for row in report["rows"])


@pytest.mark.parametrize(("controls", "wanted"), [
    ({"sound": KEYS}, "^controls: must be of the given segments keys, got 'sound'"),
    ({"key": KEYS}, "^controls: must be of the given segments keys, got 'key'"),
    ([KEYS], "^controls: must be tokens by the names of given segments"),
    ({"keys": KEYS[0]}, r"^controls\['keys'\]: must be whole numbers of shape \(t, 2\)"),
    ({"keys": KEYS[:, :1]}, r"^controls\['keys'\]: must be whole numbers of shape \(t, 2\)"),
    ({"keys": 1}, r"^controls\['keys'\]: must be whole numbers of shape \(t, 2\)"),
    ({"keys": [[0, 1], [2]]}, r"^controls\['keys'\]: must be whole numbers of shape \(t, 2\)"),
    ({"keys": [["a", "b"]]}, r"^controls\['keys'\]: must be whole numbers of shape \(t, 2\)"),
    ({"keys": KEYS.astype(float)}, r"^controls\['keys'\]: must be whole numbers of shape \(t, 2\)"),
    ({"keys": torch.zeros(1, 2, dtype=torch.bool)}, r"^controls\['keys'\]: must be whole numbers of shape \(t, 2\)"),
    ({"keys": KEYS + 1}, r"^controls\['keys'\]: must be from 0 to 3"),
    ({"keys": KEYS - 1}, r"^controls\['keys'\]: must be from 0 to 3"),
])  # fmt: skip
def test_controls_that_do_not_fit_are_refused(generator, controls, wanted):
    for make in (generator.generate, generator.stream(RED).control):
        with pytest.raises(ReelmError, match=wanted):
            make(**({"prompt": RED} | {"controls": controls}))


def test_what_needs_video_alone_is_refused(generator, debug_generator):
    for decoder in ("diagonal", Diagonal()):
        with pytest.raises(ReelmError, match=r"^decoder: must not be 'diagonal' where a latent frame is more"):
            generator.generate(RED, decoder=decoder)
    with pytest.raises(ReelmError, match=r"^controls: must be none: this model has no given segments"):
        debug_generator.generate(RED, controls={"keys": KEYS})
