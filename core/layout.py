"""What one latent frame is made of: segments of tokens, in which order they are written, and which of them are given.

    layout = FrameLayout((
        Segment(name="keys", shape=(2,), vocab_size=4, given=True),
        Segment(name="video", shape=(8, 8), vocab_size=1000, order="coarse"),
    ))
    tokens_BtS = layout.pack({"keys": keys_Bt2, "video": video_Bthw})       # ids of one shared space, as written
    layout.unpack(tokens_BtS)["video"]                                     # and back

Each segment owns a range of ids: those of the first segment come first. A layout is data: it is tested without a
model, and the engine, the decoders and the language models read from it what they need (Copet et al. 2023, arXiv
2306.05284, describe the order of several streams of tokens in the same way).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch

from .errors import require
from .token_order import ORDERS, Order, scan_order

VIDEO = "video"
# Tables are made once and kept, whatever device is the default where they are first asked for.
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of every latent frame.

    Attributes:
        name: the key of its tokens wherever they are grids.
        shape: of its grid of tokens in one latent frame, such as (rows, columns).
        vocab_size: the number of its token ids, which count from 0 in its grids.
        order: in which its tokens are written; other orders than "raster" need two axes.
        given: whether its tokens come from outside; otherwise they are sampled.
        default: the id that a given token has where nothing is given.
    """

    name: str
    shape: tuple[int, ...]
    vocab_size: int
    order: Order = "raster"
    given: bool = False
    default: int = 0

    def __post_init__(self) -> None:
        require(bool(self.shape) and min(self.shape) >= 1, "shape", "must have sizes of at least 1", self.shape)
        require(self.vocab_size >= 1, "vocab_size", "must be at least 1", self.vocab_size)
        require(self.order in ORDERS, "order", f"must be one of {', '.join(ORDERS)}", self.order)
        grid = self.order == "raster" or len(self.shape) == 2
        require(grid, "order", "must be 'raster' for a segment that has not two axes", self.order)
        known = 0 <= self.default < self.vocab_size
        require(known, "default", f"must be from 0 to {self.vocab_size - 1}", self.default)

    @property
    def size(self) -> int:
        """The number of its tokens in one latent frame."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class FrameLayout:
    """The segments of a latent frame, in the order in which they are written; one of them is the sampled "video"."""

    segments: tuple[Segment, ...]

    def __post_init__(self) -> None:
        names = [segment.name for segment in self.segments]
        require(len(set(names)) == len(names), "segments", "must have names that differ", names)
        video = [segment for segment in self.segments if segment.name == VIDEO and len(segment.shape) == 2]
        require(len(video) == 1, "segments", "must hold one 'video' of two axes", names)
        require(not video[0].given, "segments", "must hold a 'video' that is sampled", names)

    def __getitem__(self, name: str) -> Segment:
        """The segment of this name; a `ReelmError` names those that there are."""
        found = [segment for segment in self.segments if segment.name == name]
        names = ", ".join(segment.name for segment in self.segments)
        require(bool(found), "segment", f"must be one of {names}", name)
        return found[0]

    @property
    def video(self) -> Segment:
        """The segment that becomes pixels."""
        return self[VIDEO]

    @property
    def others(self) -> tuple[Segment, ...]:
        """All segments but the video."""
        return tuple(segment for segment in self.segments if segment.name != VIDEO)

    @cached_property
    def frame_size(self) -> int:
        """The number of tokens in one latent frame, S."""
        return sum(segment.size for segment in self.segments)

    @cached_property
    def vocab_size(self) -> int:
        """The number of ids in the shared space, V."""
        return sum(segment.vocab_size for segment in self.segments)

    @cached_property
    def raster_S(self) -> torch.Tensor:
        """For each token as written, its place among the segments' grids in raster order, one after the other."""
        places, first = [], 0
        with CPU:
            for segment in self.segments:
                plain = torch.arange(segment.size)
                order = scan_order(*segment.shape, segment.order) if len(segment.shape) == 2 else plain
                places.append(first + order)
                first += segment.size
            return torch.cat(places)

    @cached_property
    def first_ids_S(self) -> torch.Tensor:
        """For each token as written, the first id of its segment."""
        return self._each([self.first_id(segment.name) for segment in self.segments])

    @cached_property
    def given_S(self) -> torch.Tensor:
        """For each token as written, whether it is given."""
        return self._each([int(segment.given) for segment in self.segments]).bool()

    @cached_property
    def has_given(self) -> bool:
        """Whether any segment is given."""
        return any(segment.given for segment in self.segments)

    @cached_property
    def allowed_SV(self) -> torch.Tensor:
        """For each token as written, which ids of the shared space it may have."""
        sizes_S = self._each([segment.vocab_size for segment in self.segments])
        ids_V = torch.arange(self.vocab_size, device=CPU)
        first_S1, sizes_S1 = self.first_ids_S[:, None], sizes_S[:, None]
        return (ids_V >= first_S1) & (ids_V < first_S1 + sizes_S1)

    def frames(self, positions: int) -> int:
        """Latent frames that so many positions fill, or begin to fill."""
        return -(-positions // self.frame_size)

    def first_id(self, name: str) -> int:
        """The id of the shared space that token 0 of this segment has."""
        names = [segment.name for segment in self.segments]
        return sum(segment.vocab_size for segment in self.segments[: names.index(name)])

    def _each(self, values: list[int]) -> torch.Tensor:
        """A value of each segment, repeated for each of its tokens."""
        with CPU:
            return torch.tensor(values).repeat_interleave(torch.tensor([segment.size for segment in self.segments]))

    def pack(self, grids: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The tokens (…, S) of latent frames as they are written, from the grids (…, *shape) of every segment.

        Raises:
            ReelmError: a segment is missing or unknown, or a grid has another shape.
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
        """What `pack` was given, (…, *shape) by name, from tokens (…, S)."""
        ids_S = tokens_S - self.first_ids_S.to(tokens_S.device)
        return self.as_grids(ids_S)

    def as_grids(self, values_S: torch.Tensor) -> dict[str, torch.Tensor]:
        """Values (…, S) that belong to the tokens of latent frames, as grids (…, *shape) by name of the segment."""
        in_raster_S = values_S[..., self.raster_S.argsort().to(values_S.device)]
        parts = in_raster_S.split([segment.size for segment in self.segments], -1)
        return {
            segment.name: part.unflatten(-1, segment.shape) for segment, part in zip(self.segments, parts, strict=True)
        }

    def admits(self, grids: Mapping[str, torch.Tensor]) -> bool:
        """Whether these are grids (…, *shape) of all segments, of as many latent frames, with ids that they have."""
        if set(grids) != {segment.name for segment in self.segments}:
            return False
        lengths = set()
        for segment in self.segments:
            grid, axes = grids[segment.name], len(segment.shape)
            if grid.shape[-axes:] != segment.shape or not bool(((grid >= 0) & (grid < segment.vocab_size)).all()):
                return False
            lengths.add(grid.shape[:-axes])
        return len(lengths) == 1
