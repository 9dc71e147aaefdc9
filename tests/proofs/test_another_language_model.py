"""Another language model goes through the whole product: generate, continue, stream, save, score, and the benchmark.

It is nothing like ours: a plain transformer with learned absolute positions, so that it has a horizon; a token's input
is the token before it; prompts and a reference picture are read by cross-attention. Copy from here to bring your own.

Files of the library that know of it: none. It takes a config (`PlainConfig`), a cache on `TokenHistory` (`PlainCache`),
a model (`PlainTransformer`), a function that loads it (`load_plain`), and one line: `register`.
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
from reelm.core.condition import Embedding, Frames, Text
from reelm.core.errors import ReelmError, require
from reelm.core.layout import FrameLayout, Segment
from reelm.core.protocols import Cost, Numerics
from reelm.core.token_history import HISTORY, TokenHistory, gather_rows
from reelm.generation.generator import VideoGenerator
from reelm.generation.memory_plan import plan_memory
from reelm.generation.pretrained import ModelConfig, save_pretrained
from reelm.generation.video import Video
from reelm.kernels.sample import sample
from reelm.lm.registry import register
from reelm.sampling.diagonal import Diagonal
from reelm.sampling.engine import Engine, first_anchor
from reelm.sampling.plan import ClipPlan, NoiseKey, SamplingConfig
from reelm.sampling.teacher import TeacherForcing
from reelm.tokenizer.quantizer import QuantizerConfig
from reelm.tokenizer.video_tokenizer import TokenizerConfig, VideoTokenizer

WORDS, CELLS = 8, 4  # of a prompt; rows and columns of the mean colours of a reference picture
STATES = 1 + WORDS + CELLS**2  # what a token reads across: one state that says nothing, the words, the colours


@dataclass(frozen=True, kw_only=True)
class PlainConfig:
    """Sizes of the model: the part "lm" of config.json."""

    kind: ClassVar[str] = "plain"
    guidance: ClassVar[None] = None
    vocab_size: int
    rows: int = 4
    columns: int = 4
    horizon: int = 4
    width: int = 16
    depth: int = 2

    @property
    def layout(self) -> FrameLayout:
        return FrameLayout((Segment(name="video", shape=(self.rows, self.columns), vocab_size=self.vocab_size),))

    @property
    def window(self) -> int:
        return self.horizon

    def slots(self, ahead: int) -> int:
        """Positions of a cache for passes that look up to `ahead` latent frames beyond the horizon."""
        return (self.horizon + ahead) * self.layout.frame_size

    def cost(self, rows: int, count: int, numerics: Numerics) -> Cost:
        width, itemsize, size = self.width, numerics.dtype.itemsize, self.layout.frame_size
        inside = self.depth * 12 * width**2 + width * self.vocab_size
        tables = (self.vocab_size + 1 + self.horizon * size + 256 + CELLS**2 + 1 + 3) * width
        parameters, slots = inside + tables, self.slots(-(-count // size))
        states = STATES * (width * itemsize + 1)
        row = 2 * self.depth * slots * width * itemsize + states
        step = rows * count * itemsize * (slots + STATES + 8 * width + self.vocab_size)
        return Cost(
            parameters=parameters, weights=parameters * itemsize, loading=2 * parameters,
            cache=rows * (row + 8 * HISTORY * size), state=row, step=step,
            flops=2 * rows * count * (inside + 2 * self.depth * slots * width), read=inside * itemsize,
        )  # fmt: skip


class PlainCache(TokenHistory):
    """Keys and values of every position from the beginning on, and the states that are read across."""

    def __init__(self, config: PlainConfig, rows: int, like: torch.Tensor, ahead: int) -> None:
        super().__init__(rows, config.layout.frame_size, like.device)
        self.kept = config.slots(0)
        held = (rows, config.depth, config.slots(ahead), config.width)
        self.held = {
            "keys": like.new_zeros(held), "values": like.new_zeros(held),
            "states": like.new_zeros(rows, STATES, config.width),
            "visible": like.new_zeros((rows, STATES), dtype=torch.bool),
        }  # fmt: skip

    def arrange(self, sources):
        super().arrange(sources)
        self.held = {name: gather_rows(held, sources) for name, held in self.held.items()}

    def _parts(self) -> dict[str, torch.Tensor]:
        """What a state holds: no slots beyond the horizon, where drafts alone are."""
        parts = {name: self.held[name][:, :, : self.kept] for name in ("keys", "values")}
        return self.held | parts

    def export(self, rows):
        return {name: part[list(rows)].cpu() for name, part in self._parts().items()}

    def accepts(self, rows, state):
        wanted = {name: ((rows, *part.shape[1:]), part.dtype) for name, part in self._parts().items()}
        return wanted == {name: (tuple(part.shape), part.dtype) for name, part in state.items()}

    def restore(self, rows, state, tokens_S):
        for name, part in self._parts().items():
            part[list(rows)] = state[name].to(part.device)
        self.restore_tokens(rows, tokens_S)


class PlainBlock(nn.Module):
    """Attention to the tokens before, attention across to the conditions, and an MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.q, self.kv, self.up, self.down = (
            nn.Linear(inputs * width, outputs * width, bias=False)
            for inputs, outputs in ((1, 3), (1, 1), (1, 2), (1, 3), (3, 1))
        )

    def forward(self, x_BLD, states_BQD, visible_BQ, attend):
        """`attend` knows the keys and values of all positions that a token sees."""
        x_BLD = x_BLD + attend(*self.qkv(_norm(x_BLD)).chunk(3, -1))
        across = F.scaled_dot_product_attention(
            self.q(_norm(x_BLD)), *self.kv(states_BQD).chunk(2, -1), attn_mask=visible_BQ[:, None]
        )
        x_BLD = x_BLD + across
        return x_BLD + self.down(F.gelu(self.up(_norm(x_BLD))))


def _norm(x_BLD: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x_BLD, x_BLD.shape[-1:])


class PlainTransformer(nn.Module):
    """It meets `LanguageModel`; the id V stands before the first token and for drafts that are not known."""

    backend = None
    keeps_first = False
    reads = ("text", "frames:reference")
    guidance = guided = None

    def __init__(self, config: PlainConfig) -> None:
        super().__init__()
        self.config, self.layout, self.horizon = config, config.layout, config.horizon
        self.tokens = nn.Embedding(config.vocab_size + 1, config.width)
        self.positions = nn.Embedding(config.slots(0), config.width)
        self.words, self.cells = nn.Embedding(256, config.width), nn.Embedding(CELLS**2 + 1, config.width)
        self.colours = nn.Linear(3, config.width, bias=False)
        self.blocks = nn.ModuleList(PlainBlock(config.width) for _ in range(config.depth))
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)

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
        require(len(text.split()) <= WORDS, argument, f"must have at most {WORDS} words", text)
        return []  # words are known by their hashes

    def make_cache(self, rows, *, ahead=1):
        return PlainCache(self.config, rows, self.head.weight, ahead)

    def _read(self, conditions) -> tuple[torch.Tensor, torch.Tensor]:
        """The states (Q, D) of one row's conditions, and which of them there are."""
        states_QD = self.cells.weight.new_zeros(STATES, self.config.width)
        visible_Q = torch.zeros(STATES, dtype=torch.bool, device=self.device)
        states_QD[0], visible_Q[0] = self.cells.weight[-1], True
        for condition in conditions:
            if isinstance(condition, Text):
                ids = torch.tensor([zlib.crc32(word.encode()) % 256 for word in condition.text.split()])
                states_QD[1 : 1 + len(ids)] = self.words(ids.long().to(self.device))
                visible_Q[1 : 1 + len(ids)] = True
            else:
                mean_CHW = condition.frames_THW3.to(self.device, torch.float32).mean(0).permute(2, 0, 1) / 255
                colours_QC = F.adaptive_avg_pool2d(mean_CHW, CELLS).flatten(1).T.to(states_QD.dtype)
                states_QD[-(CELLS**2) :] = self.colours(colours_QC) + self.cells.weight[:-1]
                visible_Q[-(CELLS**2) :] = True
        return states_QD, visible_Q

    @torch.no_grad()
    def condition(self, cache, rows, conditions):
        for row, listed in zip(rows, conditions, strict=True):
            cache.held["states"][row], cache.held["visible"][row] = self._read(listed)

    def _logits(self, tokens_BL, positions_BL, states_BQD, visible_BQ, attend) -> torch.Tensor:
        """From the tokens before these positions; a pass may look ahead beyond the horizon, at what is never kept."""
        tokens_BL = tokens_BL.where(positions_BL > 0, self.config.vocab_size)
        x_BLD = self.tokens(tokens_BL) + self.positions(positions_BL.clamp(max=self.config.slots(0) - 1))
        for layer, block in enumerate(self.blocks):
            x_BLD = block(x_BLD, states_BQD, visible_BQ, lambda q, k, v, layer=layer: attend(layer, q, k, v))
        return self.head(_norm(x_BLD))

    @torch.no_grad()
    def step(self, cache, count=1, offsets=None, sees_LA=None):
        positions_BL, held = cache.next_positions(count, offsets), cache.held
        if sees_LA is None:
            sees_LA = torch.ones(count, count, device=self.device).tril().bool()
        rows_B1 = torch.arange(len(positions_BL), device=self.device)[:, None]
        ahead_BC = torch.arange(held["keys"].shape[2], device=self.device) - cache.positions_B[:, None]
        among_BC = (ahead_BC >= 0) & (ahead_BC < count)
        sees_LBC = sees_LA.to(self.device)[:, ahead_BC.clamp(0, count - 1)] & among_BC | (ahead_BC < 0)

        def attend(layer, q_BLD, k_BLD, v_BLD):
            held["keys"][rows_B1, layer, positions_BL] = k_BLD
            held["values"][rows_B1, layer, positions_BL] = v_BLD
            keys_BCD, values_BCD = held["keys"][:, layer], held["values"][:, layer]
            return F.scaled_dot_product_attention(q_BLD, keys_BCD, values_BCD, attn_mask=sees_LBC.transpose(0, 1))

        return self._logits(cache.tokens(positions_BL - 1), positions_BL, held["states"], held["visible"], attend)

    @torch.no_grad()
    def oracle(self, tokens_BS, conditions):
        positions_BS = torch.arange(tokens_BS.shape[1], device=self.device).expand_as(tokens_BS)
        states_BQD, visible_BQ = map(torch.stack, zip(*map(self._read, conditions), strict=True))

        def attend(_, q_BSD, k_BSD, v_BSD):
            return F.scaled_dot_product_attention(q_BSD, k_BSD, v_BSD, is_causal=True)

        return self._logits(tokens_BS.roll(1, 1), positions_BS, states_BQD, visible_BQ, attend)


def load_plain(config, folder, device, numerics):
    """What the registry loads a checkpoint's model with, and the name of its weights."""
    require(set(numerics.precisions.values()) == {"full"}, "weights, cache", "must be 'full'", numerics.precisions)
    lm = PlainTransformer(config)
    load_weights(lm, folder / "lm.safetensors")
    lm.to(device, numerics.dtype).eval().requires_grad_(False)
    return lm, hashlib.sha256((folder / "lm.safetensors").read_bytes()).hexdigest()[:16]


# The proof: a checkpoint of it, and what the product does with that.

RED, BLUE = "a red ball rolls", "a blue ring spins over grass"
LONG = 1 + 4 * 7  # frames of a clip whose cache begins anew after 4 and after 6 latent frames


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    register(PlainConfig.kind, PlainConfig, load_plain)
    torch.manual_seed(0)
    tokenizer = TokenizerConfig(encoder_width=16, decoder_widths=(16, 8), decoder_depth=(2, 1),
                                quantizer=QuantizerConfig(levels=(5, 5)))  # fmt: skip
    lm = PlainConfig(vocab_size=25)
    config = ModelConfig(format=1, fps=8.0, height=32, width=32, tokenizer=tokenizer, lm=lm)
    model = PlainTransformer(lm)
    for weight in model.parameters():  # large, so that prompt, picture and past do change the tokens
        nn.init.normal_(weight, std=0.4)
    folder = tmp_path_factory.mktemp("plain")
    save_pretrained(folder, config, VideoTokenizer(tokenizer), model)
    return VideoGenerator.from_pretrained(folder, device="cpu")


def picture(seed):
    return Frames(torch.randint(256, (1, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)))


def slow_twin(model, plan, settings):
    """Sampling without an engine: from whole masked passes over all that the horizon leaves of what came before."""
    size, tokens = model.layout.frame_size, torch.zeros(0, dtype=torch.int64)
    for position in range(plan.latent_frames * size):
        frame = position // size
        seen_1S = torch.cat([tokens[first_anchor(frame, model.horizon) * size :], torch.zeros(1).long()])[None]
        both = [plan.conditions_at(frame), plan.negative_conditions]
        logits_RV = model.oracle(seen_1S.expand(2, -1), both)[:, -1]
        numbers = (torch.tensor([number]) for number in (plan.key.seed, plan.key.sample, position))
        tokens = torch.cat([tokens, sample(logits_RV, *numbers, **settings.rules)])
    return tokens.view(-1, *model.layout.video.shape).numpy()


def test_its_clips_are_those_of_a_plain_loop_across_the_horizon(generator):
    options = {"seed": 3, "num_frames": LONG, "guidance_scale": 2.0, "top_k": 9, "conditions": [picture(0)]}
    settings = SamplingConfig(guidance_scale=2.0, top_k=9)
    plan = ClipPlan(prompts=((0, RED),), key=NoiseKey(3), latent_frames=8, conditions=(picture(0),))
    wanted = slow_twin(generator.parts.lm, plan, settings)
    for decoder in ("sequential", "jacobi", Diagonal(delay=4)):  # a whole row's delay makes a diagonal exact
        assert np.array_equal(generator.generate(RED, decoder=decoder, **options).tokens, wanted)


def test_a_batch_and_a_stream_give_what_each_clip_is_alone(generator):
    prompts, seeds, lengths = [RED, BLUE, RED], [1, 2, 3], [5, LONG, 21]
    options = {"conditions": [picture(1)], "guidance_scale": 1.5}
    batch = generator.generate(prompts, seed=seeds, num_frames=lengths, batch_size=2, **options)
    for prompt, seed, frames, video in zip(prompts, seeds, lengths, batch, strict=True):
        alone = generator.generate(prompt, seed=seed, num_frames=frames, **options)
        streamed = np.concatenate(list(generator.stream(prompt, seed=seed, num_frames=frames, **options)))
        assert np.array_equal(video.tokens, alone.tokens)
        assert np.array_equal(streamed, alone.frames)


# The cache begins anew after 4, 6 and 8 latent frames, which are 13, 21 and 29 frames.
@pytest.mark.parametrize(("frames", "scale"), [(1, 3.0), (13, 1.0), (13, 3.0), (21, 2.0)])
def test_saved_and_continued_is_never_stopped(generator, tmp_path, frames, scale):
    conditions = {"conditions": [picture(2)]}
    options = {"seed": 5, "guidance_scale": scale, **conditions}
    whole = generator.generate(RED, num_frames=frames + 12, **options)
    start = generator.generate(RED, num_frames=frames, **options)
    session, clip = start.state.save(tmp_path / "a.safetensors"), Video.load(start.save(tmp_path / "a.mkv"))
    for source in (start, session):
        assert np.array_equal(generator.continue_clip(source, num_frames=12).tokens, whole.tokens)
    again = generator.continue_clip(generator.continue_clip(session, num_frames=4), num_frames=8)
    assert np.array_equal(again.tokens, whole.tokens)
    assert np.array_equal(generator.continue_clip(clip, num_frames=12, **conditions).tokens, whole.tokens)


def test_a_clip_whose_reference_is_not_with_it_says_so(generator, tmp_path, capsys):
    start = generator.generate(RED, num_frames=9, seed=1, conditions=[picture(0)])
    generator.continue_clip(start.save(tmp_path / "a.mp4"), num_frames=4)
    assert "made under frames:reference, which is not with it" in capsys.readouterr().err
    generator.continue_clip(start, num_frames=4)
    assert "frames:reference" not in capsys.readouterr().err


def test_prompt_and_reference_are_read_and_others_refused(generator, debug_generator):
    options = {"seed": 1, "num_frames": 9}
    plain = generator.generate(RED, **options).tokens
    first, second = (generator.generate(RED, conditions=[picture(n)], **options) for n in (0, 1))
    assert len({clip.tobytes() for clip in (plain, first.tokens, second.tokens)}) == 3
    assert not np.array_equal(plain, generator.generate(BLUE, **options).tokens)
    # A state is not gone on from under another picture than it was drawn under.
    other = generator.continue_clip(first, num_frames=4, conditions=[picture(1)])
    first.state = dataclasses.replace(first.state, cache={})
    assert np.array_equal(other.tokens, generator.continue_clip(first, num_frames=4, conditions=[picture(1)]).tokens)
    changing = generator.generate([(0, RED), (0.6, BLUE)], **options).tokens
    assert np.array_equal(changing[:2], plain[:2]) and not np.array_equal(changing[2:], plain[2:])
    with pytest.raises(ReelmError, match=r"^conditions: must be of the kinds frames:reference, got 'embedding'"):
        generator.generate(RED, conditions=[Embedding(torch.zeros(1, 8))])
    with pytest.raises(ReelmError, match=r"^conditions: must be of the kinds frames:reference, got 'frames:last'"):
        generator.generate(RED, conditions=[dataclasses.replace(picture(0), role="last")])
    with pytest.raises(ReelmError, match=r"^conditions: must be none: this model reads its prompt alone"):
        debug_generator.generate(RED, conditions=[picture(0)])


def test_a_step_agrees_with_the_oracle_and_scores_with_both(generator):
    lm, conditions = generator.parts.lm, (picture(0),)
    video = generator.generate(RED, seed=2, num_frames=13, conditions=conditions)
    tokens_BS = lm.layout.pack({"video": torch.from_numpy(video.tokens)}).view(1, -1)
    wanted = lm.oracle(tokens_BS, [(Text(RED), *conditions)])
    forced = TeacherForcing(tokens_BS, 11)
    engine = Engine(lm, SamplingConfig(guidance_scale=1.0), decoder=forced)
    engine.add(ClipPlan(prompts=((0, RED),), key=NoiseKey(0), conditions=conditions))
    for block in wanted.split(11, 1):
        engine.step()
        assert torch.allclose(forced.logits_RLV, block, atol=1e-4)
    nats = F.cross_entropy(wanted[0], tokens_BS[0], reduction="sum")
    assert generator.score(video).nats == pytest.approx(float(nats), rel=1e-4)
    assert len(generator.score(generator.generate(RED, seed=2, num_frames=LONG)).nats_thw) == 8


def test_it_is_planned_described_and_measured(generator):
    parts = generator.parts
    assert parts.lm.cost(1, 1).parameters == sum(weight.numel() for weight in parts.lm.parameters())
    assert plan_memory(parts.config, seconds=4, batch=2, continuing=True).total > 0
    assert parts.sizes()["reads"] == ["text", "frames:reference"]
    report = benchmark(generator, check=True, baselines=False)
    assert all(row["ok"] and not row["mismatching_tokens"] for row in report["rows"])
    assert "reelm sequential" in str(report)
