"""The tokens that a language model is trained on: token shards as they are, or made of clips in the run's folder.

    tokens = clip_tokens(tokenizer, Path("my_clips"), Path("runs/lm"), OWN_WINDOWS, resume=False)
    read_shards(tokens.train)           # tokens.held_out, tokens.clips where the data were clips

A run that goes on keeps its tokens; which clips and windows they were made of is written to data.json.
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

# Clips of one's own are few: windows that overlap make more of them.
OWN_WINDOWS = Windows(stride=4)


@dataclass(frozen=True)
class ClipTokens:
    """Folders of a run's data.

    Attributes:
        train: token shards to train on.
        held_out: token shards of held-out clips, None where there are none that are long enough.
        clips: the clips that both were made of; None where the data were tokens.
        prepared: the report of preparing them, where that was done now.
    """

    train: Path
    held_out: Path | None = None
    clips: Path | None = None
    prepared: Report | None = None


def clip_tokens(
    tokenizer: VideoTokenizer, data: Path, out: Path, windows: Windows, *, known: Path | None = None, resume: bool
) -> ClipTokens:
    """Find the tokens of a training run, or make them.

    Args:
        tokenizer: makes the tokens.
        data: a folder of token shards, of clips that `prepare` made, or of any clips.
        out: the folder of the run.
        windows: what is cut out of clips; must be `OWN_WINDOWS`, but for the seed, where the data are tokens.
        known: clips that the tokenizer was trained on, which are not prepared again if they are the same.
        resume: the run goes on, with the tokens that it has.

    Raises:
        ReelmError: windows are given for tokens, or differ from those of the run that goes on; or the clips cannot be
            prepared or encoded.
    """
    if any(data.glob("*.safetensors")):
        options, usual = dataclasses.asdict(windows), dataclasses.asdict(OWN_WINDOWS)
        given = {f"windows.{name}": value for name, value in options.items() if name != "seed" and value != usual[name]}
        rule = "must not be given where the data are tokens, which are windows already"
        require(not given, ", ".join(given), rule, given)
        return ClipTokens(data)
    tokens, held_out, record = out / "tokens", out / "held-out-tokens", out / "data.json"
    if resume:
        made = read_json(record)
        check_same({"windows": windows.told()}, {"windows": made.get("windows")})
        return ClipTokens(tokens, held_out if held_out.exists() else None, Path(made["clips"]))
    clips, prepared = prepare_once(data, out, known)
    for old in [*tokens.glob("*.safetensors"), *held_out.glob("*.safetensors")]:
        if not old.stem.endswith(f"-{windows.num_frames}"):  # of a run that never began
            old.unlink()
    encode_shards(tokenizer, ClipShards(clips), tokens, windows)
    ends = ClipShards(clips, "held-out")
    long_enough = any(sample.frames >= windows.num_frames for sample in ends.samples)
    if long_enough:
        encode_shards(tokenizer, ends, held_out, dataclasses.replace(windows, crops=1, mirror=False, motion=0.0))
    save_json(record, {"clips": str(clips), "windows": windows.told()})
    return ClipTokens(tokens, held_out if long_enough else None, clips, prepared)
