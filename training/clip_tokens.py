"""The tokens that a language model is trained on: existing token shards, or shards encoded from clips for the run.

    tokens = clip_tokens(tokenizer, Path("my_clips"), Path("runs/lm"), OWN_WINDOWS, resume=False)
    read_shards(tokens.train)           # tokens.held_out and tokens.clips are set where the data were clips

A resumed run keeps its tokens; data.json records the clips and windows that they were made from.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from ..core.checkpoint import read_json, save_json
from ..core.config import check_same
from ..core.errors import require
from ..data.clip_shards import ClipShards
from ..data.encode import Windows, encode_shards
from ..data.prepare import Report, prepare_once
from ..tokenizer.video_tokenizer import VideoTokenizer

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
    tokenizer: VideoTokenizer, data: Path, out: Path, windows: Windows, *, known: Path | None = None, resume: bool
) -> ClipTokens:
    """Find the tokens of a training run, or encode them from clips.

    Args:
        tokenizer: The tokenizer that encodes the clips.
        data: A folder of token shards, of clips that `prepare` made, or of any clips.
        out: The folder of the run.
        windows: The windows that are cut out of clips. Where the data are tokens, only the seed may differ from
            `OWN_WINDOWS`.
        known: The prepared clips that the tokenizer was trained on; they are used again if they are the same clips.
        resume: Whether the run is continued, with the tokens that it has.

    Raises:
        ReelmError: Windows are given for tokens, or differ from those of the resumed run; or the clips cannot be
            prepared or encoded.
    """
    if any(data.glob("*.safetensors")):
        options, default = dataclasses.asdict(windows), dataclasses.asdict(OWN_WINDOWS)
        given = {f"windows.{key}": value for key, value in options.items() if key != "seed" and value != default[key]}
        rule = "must not be given where the data are tokens, which are windows already"
        require(not given, ", ".join(given), rule, given)
        return ClipTokens(data)
    tokens, held_out, record = out / "tokens", out / "held-out-tokens", out / "data.json"
    if resume:
        recorded = read_json(record)
        check_same({"windows": windows.record()}, {"windows": recorded.get("windows")})
        return ClipTokens(tokens, held_out if held_out.exists() else None, Path(str(recorded["clips"])))
    clips, prepared = prepare_once(data, out, known)
    for old in [*tokens.glob("*.safetensors"), *held_out.glob("*.safetensors")]:
        if not old.stem.endswith(f"-{windows.num_frames}"):  # left by a run that never started training
            old.unlink()
    encode_shards(tokenizer, ClipShards(clips), tokens, windows)
    held_out_clips = ClipShards(clips, "held-out")
    long_enough = any(sample.frames >= windows.num_frames for sample in held_out_clips.samples)
    if long_enough:
        plain = dataclasses.replace(windows, crops=1, mirror=False, motion=0.0)
        encode_shards(tokenizer, held_out_clips, held_out, plain)
    save_json(record, {"clips": str(clips), "windows": windows.record()})
    return ClipTokens(tokens, held_out if long_enough else None, clips, prepared)
