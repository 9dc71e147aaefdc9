"""The layout of a latent frame: its segments of tokens, their writing order, and which segments are given as input.

    layout = FrameLayout((
        Segment(name="keys", shape=(2,), vocab_size=4, given=True),
        Segment(name="video", shape=(8, 8), vocab_size=1000, order="coarse"),
    ))
    tokens_BtS = layout.pack({"keys": keys_Bt2, "video": video_Bthw})       # one sequence in writing order
    layout.unpack(tokens_BtS)["video"]                                     # the grids (B, t, 8, 8) again

All segments share one vocabulary, in which each has a range of ids of its own: first the sampled segments, in their
order, then the given ones. Logits are of the sampled segments' ids alone.
The engine, the decoders and the language models all read the order of tokens from the layout, which needs no model and
can be tested without one (Copet et al. 2023, arXiv 2306.05284, describe the order of several token streams in the same
way).

`TokenGrid` and `Compression` relate tokens to pixels: the first few frames of a clip are its latent frame 0, for most
codecs frame 0 alone, and each further group of `temporal` frames is one, so that T = first + temporal * (t - 1).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch

from .errors import require
from .plain_values import convert_fields
from .token_order import ORDERS, Order, scan_order

VIDEO = "video"
# Cached tables are always on the CPU, even if torch's default device is another one when they are first used.
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One group of tokens in every latent frame, such as the video tokens.

    Attributes:
        name: The segment's name, the key of its grids of tokens in dicts.
        shape: The shape of its grid in one latent frame, such as (rows, columns).
        vocab_size: The number of its token ids, which are 0 .. vocab_size - 1 in its grids.
        order: The writing order of its tokens; other orders than "raster" need a shape of two axes.
        given: Whether its tokens are input; otherwise they are sampled.
        default: The id of a given token where the caller gives none.
    """

    name: str
    shape: tuple[int, ...]
    vocab_size: int
    order: Order = "raster"
    given: bool = False
    default: int = 0

    def __post_init__(self) -> None:
        convert_fields(self)
        require(bool(self.shape) and min(self.shape) >= 1, "shape", "must have sizes of at least 1", self.shape)
        require(self.vocab_size >= 1, "vocab_size", "must be at least 1", self.vocab_size)
        require(self.order in ORDERS, "order", f"must be one of {', '.join(ORDERS)}", self.order)
        grid = self.order == "raster" or len(self.shape) == 2
        require(grid, "order", "must be 'raster' for a segment that has not two axes", self.order)
        known = 0 <= self.default < self.vocab_size
        require(known, "default", f"must be from 0 to {self.vocab_size - 1}", self.default)

    @property
    def size(self) -> int:
        """The number of the segment's tokens in one latent frame."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class FrameLayout:
    """The segments of a latent frame in writing order; exactly one of them is the sampled "video".

    Attributes:
        segments: The segments, in writing order.
    """

    segments: tuple[Segment, ...]

    def __post_init__(self) -> None:
        names = [segment.name for segment in self.segments]
        require(len(set(names)) == len(names), "segments", "must have names that differ", names)
        video = [segment for segment in self.segments if segment.name == VIDEO and len(segment.shape) == 2]
        require(len(video) == 1, "segments", "must hold one 'video' of two axes", names)
        require(not video[0].given, "segments", "must hold a 'video' that is sampled", names)

    def __getitem__(self, name: str) -> Segment:
        """Return the segment of this name.

        Raises:
            ReelmError: There is no such segment; the message names those that exist.
        """
        found = [segment for segment in self.segments if segment.name == name]
        names = ", ".join(segment.name for segment in self.segments)
        require(bool(found), "segment", f"must be one of {names}", name)
        return found[0]

    @property
    def video(self) -> Segment:
        """The segment whose tokens the codec decodes to pixels."""
        return self[VIDEO]

    @property
    def others(self) -> tuple[Segment, ...]:
        """All segments except the video."""
        return tuple(segment for segment in self.segments if segment.name != VIDEO)

    @cached_property
    def frame_size(self) -> int:
        """The number of tokens in one latent frame, S."""
        return sum(segment.size for segment in self.segments)

    @cached_property
    def vocab_size(self) -> int:
        """The number of ids in the shared vocabulary, V."""
        return sum(segment.vocab_size for segment in self.segments)

    @cached_property
    def sampled_vocab_size(self) -> int:
        """The number of ids of sampled segments, which are the lowest ones: the length of a position's logits."""
        return sum(segment.vocab_size for segment in self.segments if not segment.given)

    @cached_property
    def raster_S(self) -> torch.Tensor:
        """The raster index of each token in writing order, counted through the grids of all segments in turn."""
        indices, first = [], 0
        with CPU:
            for segment in self.segments:
                plain = torch.arange(segment.size)
                order = scan_order(*segment.shape, segment.order) if len(segment.shape) == 2 else plain
                indices.append(first + order)
                first += segment.size
            return torch.cat(indices)

    @cached_property
    def first_ids_S(self) -> torch.Tensor:
        """The first id of each token's segment, in writing order."""
        return self._per_token([self.first_id(segment.name) for segment in self.segments])

    @cached_property
    def given_S(self) -> torch.Tensor:
        """Whether each token is given, in writing order."""
        return self._per_token([int(segment.given) for segment in self.segments]).bool()

    @cached_property
    def has_given(self) -> bool:
        """Whether any segment is given."""
        return any(segment.given for segment in self.segments)

    @cached_property
    def allowed_SV(self) -> torch.Tensor:
        """Which ids of the shared vocabulary each token may have, in writing order."""
        sizes_S = self._per_token([segment.vocab_size for segment in self.segments])
        ids_V = torch.arange(self.vocab_size, device=CPU)
        first_S1, sizes_S1 = self.first_ids_S[:, None], sizes_S[:, None]
        return (ids_V >= first_S1) & (ids_V < first_S1 + sizes_S1)

    def frames(self, positions: int) -> int:
        """Return the number of latent frames that so many positions fill, the last one perhaps in part."""
        return -(-positions // self.frame_size)

    def first_id(self, name: str) -> int:
        """Return the id in the shared vocabulary of token 0 of this segment."""
        by_id = sorted(self.segments, key=lambda segment: segment.given)  # stable
        names = [segment.name for segment in by_id]
        return sum(segment.vocab_size for segment in by_id[: names.index(name)])

    def _per_token(self, values: list[int]) -> torch.Tensor:
        """Repeat the value of each segment for each of its tokens."""
        with CPU:
            return torch.tensor(values).repeat_interleave(torch.tensor([segment.size for segment in self.segments]))

    def pack(self, grids: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the tokens (…, S) of latent frames in writing order, with ids of the shared vocabulary.

        Args:
            grids: The grids (…, *shape) of every segment by name, with the segment's own ids.

        Raises:
            ReelmError: A segment is missing or unknown, or a grid has another shape.
        """
        names = [segment.name for segment in self.segments]
        require(set(grids) == set(names), "tokens", f"must have the segments {', '.join(names)}", sorted(grids))
        rows = []
        for segment in self.segments:
            grid, axes = grids[segment.name], len(segment.shape)
            rule = f"must have latent frames of {segment.shape}"
            require(grid.shape[-axes:] == segment.shape, segment.name, rule, tuple(grid.shape))
            rows.append(grid.flatten(-axes) + self.first_id(segment.name))
        joined = rows[0] if len(rows) == 1 else torch.cat(rows, -1)
        return joined[..., self.raster_S.to(joined.device)]

    def unpack(self, tokens_S: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the grids (…, *shape) by name of tokens (…, S): the inverse of `pack`."""
        ids_S = tokens_S - self.first_ids_S.to(tokens_S.device)
        return self.as_grids(ids_S)

    def as_grids(self, values_S: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return values (…, S) of tokens in writing order as grids (…, *shape) by name of the segment."""
        in_raster_S = values_S[..., self.raster_S.argsort().to(values_S.device)]
        parts = in_raster_S.split([segment.size for segment in self.segments], -1)
        return {
            segment.name: part.unflatten(-1, segment.shape) for segment, part in zip(self.segments, parts, strict=True)
        }

    def admits(self, grids: Mapping[str, torch.Tensor]) -> bool:
        """Return whether `grids` holds every segment with the right shape (…, *shape) and valid ids, and no other.

        The leading axes must be the same for all segments.
        """
        if set(grids) != {segment.name for segment in self.segments}:
            return False
        lengths = set()
        for segment in self.segments:
            grid, axes = grids[segment.name], len(segment.shape)
            if grid.shape[-axes:] != segment.shape or not bool(((grid >= 0) & (grid < segment.vocab_size)).all()):
                return False
            lengths.add(grid.shape[:-axes])
        return len(lengths) == 1


@dataclass(frozen=True)
class TokenGrid:
    """The shape of a clip in tokens.

    Attributes:
        t: The latent frames.
        h: The rows of tokens.
        w: The columns of tokens.
    """

    t: int
    h: int
    w: int

    @property
    def frame_size(self) -> int:
        """The number of tokens in one latent frame."""
        return self.h * self.w

    @property
    def size(self) -> int:
        """The number of tokens in the clip."""
        return self.t * self.frame_size


@dataclass(frozen=True)
class Compression:
    """The size in pixels that one token represents.

    Attributes:
        t: The frames of a latent frame, save the first one.
        h: The rows of pixels.
        w: The columns of pixels.
        first: The frames of the first latent frame, from 1 to `t`.
    """

    t: int
    h: int
    w: int
    first: int = 1

    def __post_init__(self) -> None:
        require(1 <= self.first <= self.t, "first", f"must be from 1 to {self.t}, the frames of the others", self.first)

    def latent_frames(self, frames: int) -> int:
        """Return the number of latent frames that hold `frames` frames of pixels, the last one perhaps with padding."""
        return 1 + -(-max(0, frames - self.first) // self.t)

    def frames(self, latent_frames: int) -> int:
        """Return the number of frames of pixels in `latent_frames` latent frames."""
        return self.first + (latent_frames - 1) * self.t if latent_frames > 0 else 0

    def whole(self, frames: int) -> int:
        """Return the largest number of frames, at most `frames`, that fills whole latent frames; 0 where none does."""
        return self.first + (frames - self.first) // self.t * self.t if frames >= self.first else 0

    @property
    def lengths(self) -> str:
        """The numbers of frames that fill whole latent frames, in words."""
        return f"a multiple of {self.t}" if self.first == self.t else f"{self.first} + a multiple of {self.t}"

    def grid(self, num_frames: int, height: int, width: int) -> TokenGrid:
        """Return the token grid of a clip.

        Raises:
            ReelmError: A side is no multiple of the stride, or the number of frames is not first + n * t.
        """
        fits = num_frames >= 1 and self.whole(num_frames) == num_frames
        require(fits, "num_frames", f"must be {self.lengths}", num_frames)
        for name, value, stride in (("height", height, self.h), ("width", width, self.w)):
            require(value >= stride and value % stride == 0, name, f"must be a multiple of {stride}", value)
        return TokenGrid(self.latent_frames(num_frames), height // self.h, width // self.w)
