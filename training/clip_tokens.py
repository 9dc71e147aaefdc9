"""The tokens that a language model is trained on: existing token shards, or shards encoded from clips for the run.

    tokens = clip_tokens(tokenizer, Path("my_clips"), Path("runs/lm"), OWN_WINDOWS, resume=False)
    read_shards(tokens.train)           # tokens.held_out and tokens.clips are set where the data were clips

A resumed run keeps its tokens; data.json records the clips and windows that they were made from.
"""

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..core.checkpoint import read_json, save_json
from ..core.config import check_same
from ..core.errors import require
from ..core.progress import note
from ..core.protocols import AnyCodec
from ..data.clip_shards import ClipShards, is_prepared
from ..data.encode import Windows, encode_shards
from ..data.prepare import Report, prepare_once
from ..data.token_shards import is_token_folder

# A user has few clips: overlapping windows make more training examples of them.
OWN_WINDOWS = Windows(stride=4)


@dataclass(frozen=True)
class ClipTokens:
    """The folders that hold a run's data.

    Attributes:
        train: The token shards to train on.
        held_out: The token shards of the held-out clips; None where no such clip is long enough.
        clips: The prepared clips that both were encoded from; None where the data were tokens.
        prepared: The report of preparing the clips, if this call prepared them.
    """

    train: Path
    held_out: Path | None = None
    clips: Path | None = None
    prepared: Report | None = None


def clip_tokens(
    tokenizer: AnyCodec,
    data: Path,
    out: Path,
    windows: Windows,
    *,
    fps: float | None = None,
    known: Path | None = None,
    resume: bool,
    check: Callable[[ClipShards], None] | None = None,
) -> ClipTokens:
    """Find the tokens of a training run, or encode them from clips.

    Args:
        tokenizer: The tokenizer that encodes the clips.
        data: A folder of token shards, of clips that `prepare` made, or of any clips.
        out: The folder of the run.
        windows: The windows that are cut out of clips. Where the data are tokens, only the seed may differ from
            `OWN_WINDOWS`.
        fps: The frames per second at which any clips are taken; the median of their own rates unless given.
        known: The prepared clips that the tokenizer was trained on; they are used again if they are the same clips.
        resume: Whether the run is continued, with the tokens that it has.
        check: A function that is called with the clips to train on before they are encoded, and may refuse them.

    Raises:
        ReelmError: Windows are given for tokens, or differ from those of the resumed run; or the clips cannot be
            prepared or encoded, or are not where they were when the run began.
    """
    if is_token_folder(data):
        refuse_windows(windows, fps)
        return ClipTokens(data)
    tokens, held_out, record = out / "tokens", out / "held-out-tokens", out / "data.json"
    if resume:
        recorded = read_json(record)
        check_same({"windows": windows.record()}, {"windows": recorded.get("windows")})
        same = recorded.get("tokenizer") == tokenizer.tokens_id
        require(same, "tokenizer", "must be the one that the run began with", tokenizer.tokens_id)
        clips = Path(os.path.normpath(out / str(recorded["clips"])))
        clips = data if is_prepared(data) and not is_prepared(clips) else clips
        require(is_prepared(clips), "data", f"must be the prepared clips of the run, which were in {clips}", str(data))
        return ClipTokens(tokens, held_out if held_out.exists() else None, clips)
    clips, prepared = prepare_once(data, out, fps=fps, known=known)
    train, ends = ClipShards(clips), ClipShards(clips, "held-out")
    if check is not None:
        check(train)
    for line in window_notes(train, ends, windows.num_frames):
        note(line)
    for old in [*tokens.glob("*.safetensors"), *held_out.glob("*.safetensors")]:
        if not old.stem.endswith(f"-{windows.num_frames}"):  # left by a run that never started training
            old.unlink()
    encode_shards(tokenizer, train, tokens, windows)
    long_enough = any(sample.frames >= windows.num_frames for sample in ends.samples)
    if long_enough:
        plain = dataclasses.replace(windows, crops=1, mirror=False, motion=0.0)
        encode_shards(tokenizer, ends, held_out, plain)
    # By its path from here, so that the run goes on from any working folder.
    place = os.path.relpath(clips, out)
    save_json(record, {"clips": place, "windows": windows.record(), "tokenizer": tokenizer.tokens_id})
    return ClipTokens(tokens, held_out if long_enough else None, clips, prepared)


def refuse_windows(windows: Windows, fps: float | None) -> None:
    """Refuse a rate, and windows that are not the default ones, where the data are tokens; the seed may be any.

    Raises:
        ReelmError: There are such options; the message names them.
    """
    options, default = dataclasses.asdict(windows), dataclasses.asdict(OWN_WINDOWS)
    given = {f"windows.{key}": value for key, value in options.items() if key != "seed" and value != default[key]}
    given |= {} if fps is None else {"fps": fps}
    rule = "must not be given where the data are tokens, which are windows already"
    require(not given, ", ".join(given), rule, given)


def window_notes(train: ClipShards, held_out: ClipShards, num_frames: int) -> Iterator[str]:
    """Yield what the user should know before a language model is trained on windows of `num_frames` of these clips."""
    longest = Counter[str]()
    for sample in train.samples:
        longest[sample.source] = max(longest[sample.source], sample.frames)
    stills = sum(count == 1 for count in longest.values())
    short = sum(1 < count < num_frames for count in longest.values())
    most = max(longest.values(), default=0)
    if most == 1:
        yield "warning: train lm needs clips that move, and will refuse these stills"
    elif most < num_frames:
        yield (
            f"warning: the longest clip has {most} frames to train on: train lm will refuse these clips without "
            "--windows.num-frames of at most that"
        )
    if stills and most > 1:
        yield f"{stills} of {len(longest)} clips are stills, which only a tokenizer is trained on: they do not move"
    if short and most >= num_frames:
        yield (
            f"{short} of {len(longest)} clips have fewer than {num_frames} frames to train on, the windows of train lm "
            "(--windows.num-frames), and are left out there"
        )
    if most >= num_frames and all(sample.frames < num_frames for sample in held_out.samples):
        yield (
            f"warning: no held-out end of a clip has {num_frames} frames (reelm prepare --held-out-seconds), so that a "
            "language model cannot be measured on it: the last checkpoint will be kept, not the best"
        )
