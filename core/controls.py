"""The controls of a world that is played: which keys are held and how far axes turn while each picture is shown.

    controller = Controller(keys=("a", "d", "jump"), axes=("turn",), limits=(10.0,), pictures=2)
    track = read_written("d-8,d+jump-4,none-2")                     # ControlTrack of 14 pictures
    controller.tokens(track, first=True)                            # {"keys": (8, 2), "turn": (8, 2)}
    controller.segments                                             # the given segments of a latent frame

What is held while picture n is shows in picture n + 1; nothing is held before the first picture. A latent frame has an
entry for each of its pictures: what was held while the picture before was shown. Frame 0 of a clip is a latent frame by
itself, whose entries are all empty.

The written form is that of models in diffusers and of recordings elsewhere: keys, a hyphen and a number of pictures,
separated by commas. Keys are joined by "+", or without anything where all keys of a model are single characters: then
"wj-40" is "w+j-40". "none" stands for no key.
"""

import difflib
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from .errors import require
from .layout import VIDEO, Segment
from .plain_values import convert_fields

KEYS, NONE = "keys", "none"
MOST_KEYS = 10  # a latent frame has one id for each set of keys
MOST_WRITTEN = 10**6  # pictures of a written track
MOST_AXES, MOST_BINS, MOST_PICTURES = 16, 1025, 64
_NAME = re.compile(r"[^\s,+\-]{1,32}")  # what the written form can hold


@dataclass(frozen=True)
class ControlTrack:
    """What was held while each picture of a clip was shown.

    Attributes:
        keys: The keys that were held during each picture.
        axes: How far each axis turned during each picture, by name: lists as long as `keys`.
    """

    keys: tuple[frozenset[str], ...]
    axes: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.keys)
        for name, values in self.axes.items():
            require(len(values) == count, name, f"must have {count} values, one a picture", len(values))
            require(all(map(math.isfinite, values)), name, "must be finite numbers", name)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, pictures: slice) -> "ControlTrack":
        return ControlTrack(self.keys[pictures], {name: values[pictures] for name, values in self.axes.items()})

    @property
    def written(self) -> str:
        """The keys in the written form."""
        runs = ((held, sum(1 for _ in group)) for held, group in itertools.groupby(self.keys))
        return ",".join(f"{'+'.join(sorted(held)) or NONE}-{count}" for held, count in runs)


@dataclass(frozen=True, kw_only=True)
class Controller:
    """The keys and axes that a model knows.

    Attributes:
        keys: The names of the keys, of which any may be held together.
        axes: The names of the axes.
        limits: The largest turn of each axis during a picture; beyond it an axis counts as turned so far.
        bins: The number of steps in which an axis is told, odd, so that the middle one is rest.
        pictures: The pictures of a latent frame.
    """

    keys: tuple[str, ...] = ()
    axes: tuple[str, ...] = ()
    limits: tuple[float, ...] = ()
    bins: int = 15
    pictures: int = 1

    def __post_init__(self) -> None:
        convert_fields(self)
        names = (*self.keys, *self.axes)
        for name in names:
            check_name(name, "keys, axes")
        require(len(set(names)) == len(names), "keys, axes", "must have names that differ", names)
        require(len(self.keys) <= MOST_KEYS, "keys", f"must be at most {MOST_KEYS}", len(self.keys))
        require(len(self.axes) <= MOST_AXES, "axes", f"must be at most {MOST_AXES}", len(self.axes))
        require(len(self.limits) == len(self.axes), "limits", "must be one for each axis", self.limits)
        finite = all(0 < limit < math.inf for limit in self.limits)
        require(finite, "limits", "must be finite and above 0", self.limits)
        odd = 3 <= self.bins <= MOST_BINS and self.bins % 2 == 1
        require(odd, "bins", f"must be odd and from 3 to {MOST_BINS}", self.bins)
        few = 1 <= self.pictures <= MOST_PICTURES
        require(few, "pictures", f"must be from 1 to {MOST_PICTURES}", self.pictures)

    def __bool__(self) -> bool:
        return bool(self.keys or self.axes)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The given segments of a latent frame: one for all keys, if there are any, and one for each axis."""
        keys = {KEYS: (2 ** len(self.keys), 0)} if self.keys else {}
        return tuple(
            Segment(name=name, shape=(self.pictures,), vocab_size=size, given=True, default=default)
            for name, (size, default) in (keys | dict.fromkeys(self.axes, (self.bins, self.bins // 2))).items()
        )

    def check(self, track: ControlTrack, argument: str = KEYS) -> None:
        """Check that this controller has all keys and axes of a track.

        Raises:
            ReelmError: It has not; the message names the nearest one.
        """
        for known, used in ((self.keys, frozenset().union(*track.keys)), (self.axes, track.axes)):
            for name in sorted(set(used) - set(known)):
                near = difflib.get_close_matches(name, known, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                require(False, argument, f"must be of {', '.join(known) or 'nothing'}{hint}", name)

    def ids(self, track: ControlTrack) -> dict[str, torch.Tensor]:
        """Return the token (n,) of each of the n pictures of a checked track, by segment."""
        found = {}
        if self.keys:
            bits = {name: 1 << index for index, name in enumerate(self.keys)}
            found[KEYS] = torch.tensor([sum(bits[name] for name in held) for held in track.keys], dtype=torch.int64)
        half = self.bins // 2
        for name, limit in zip(self.axes, self.limits, strict=True):
            turns = np.asarray(track.axes.get(name, (0.0,) * len(track)), dtype=np.float64)
            steps = np.rint(turns / limit * half).clip(-half, half)
            found[name] = torch.from_numpy(steps.astype(np.int64) + half)
        return found

    def tokens(self, track: ControlTrack, *, first: bool) -> dict[str, torch.Tensor]:
        """Return the tokens (t, pictures) of latent frames, by segment; empty entries fill up the last one.

        Args:
            track: What is held during the picture before each of the pictures.
            first: Whether the clip begins with these latent frames, so that its frame 0 comes before them.
        """
        found, ids = {}, self.ids(track)
        for segment in self.segments:
            ids_n = ids[segment.name]
            missing = -len(ids_n) % self.pictures
            parts = [ids_n, ids_n.new_full((missing,), segment.default)]
            if first:
                parts.insert(0, ids_n.new_full((self.pictures,), segment.default))
            found[segment.name] = torch.cat(parts).view(-1, self.pictures)
        return found

    def track(self, tokens: Mapping[str, torch.Tensor]) -> ControlTrack:
        """Return the track of tokens (t, pictures) by segment: the inverse of `tokens` without `first`."""
        counts = [tokens[segment.name].numel() for segment in self.segments]
        ids_n = tokens[KEYS].flatten().tolist() if self.keys else [0] * counts[0]
        held = tuple(frozenset(name for bit, name in enumerate(self.keys) if number >> bit & 1) for number in ids_n)
        half = self.bins // 2
        axes = {
            name: tuple((step - half) / half * limit for step in tokens[name].flatten().tolist())
            for name, limit in zip(self.axes, self.limits, strict=True)
        }
        return ControlTrack(held, axes)


NO_CONTROLLER = Controller()


def check_name(name: str, argument: str) -> None:
    """Check that this can be the name of a key or an axis.

    Raises:
        ReelmError: It is empty, long, a name of reelm's own, or has a character that separates names.
    """
    fits = isinstance(name, str) and bool(_NAME.fullmatch(name)) and name.isprintable()
    fits = fits and name not in (KEYS, NONE, VIDEO)
    rule = f"must be names of 1 to 32 characters that print, without blanks and any of , + -, and not {NONE}, {KEYS}"
    require(fits, argument, f"{rule} or {VIDEO}", name)


def read_written(text: str, argument: str = KEYS, known: Sequence[str] = ()) -> ControlTrack:
    """Return the track of the written form.

    Args:
        text: The keys and their numbers of pictures, such as "w-24,wj-12,none-8".
        argument: The name of the text in error messages.
        known: The names of the keys that there are, if they are known.

    Raises:
        ReelmError: The text is no written form, or is of more than `MOST_WRITTEN` pictures.
    """
    held: list[frozenset[str]] = []
    for part in text.split(","):
        names, _, count = part.strip().rpartition("-")
        rule = 'must be keys and numbers of pictures, such as "w-24,wj-12,none-8"'
        whole = count.isascii() and count.isdigit() and len(count) < 10 and int(count) > 0 and bool(names)
        require(whole, argument, rule, part if len(part) < 100 else f"{part[:100]}...")
        total = len(held) + int(count)
        require(total <= MOST_WRITTEN, argument, f"must be of at most {MOST_WRITTEN} pictures", total)
        held += [_key_set(names, argument, known)] * int(count)
    return ControlTrack(tuple(held))


def _key_set(names: str, argument: str, known: Sequence[str]) -> frozenset[str]:
    """Return the keys of one entry of the written form."""
    if names == NONE:
        return frozenset()
    keys = names.split("+")
    if len(keys) == 1 and known and all(len(name) == 1 for name in known):
        keys = list(names)
    for name in keys:
        check_name(name, argument)
    return frozenset(keys)


def join_tracks(tracks: Iterable[ControlTrack]) -> ControlTrack:
    """Return tracks one after the other; an axis that a track does not have rests in it."""
    tracks = list(tracks)
    axes = dict.fromkeys(name for track in tracks for name in track.axes)
    return ControlTrack(
        tuple(itertools.chain.from_iterable(track.keys for track in tracks)),
        {
            name: tuple(itertools.chain.from_iterable(track.axes.get(name, (0.0,) * len(track)) for track in tracks))
            for name in axes
        },
    )
