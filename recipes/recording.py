"""What the recorders of games share: clips with the keys that were held, in three files each, and their options.

main(__doc__, GAMES, play, fps=15)              # play(name, level, options) gives the clips of a level

coinrun-000012-00.mp4       H.264 without subsampling and nearly without loss
coinrun-000012-00.jsonl     for each picture {"keys": [...]}, held while it is shown: the next one shows what they do
coinrun-000012-00.txt       a caption of the first one
"""

import argparse
import collections
import json
from collections.abc import Callable, Collection, Iterable
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

SHORTEST_SECONDS = 2
# When keys are held alone, for how long each, and in how many seconds all of them: as `reelm evaluate play` counts.
PROBES, PROBE_SECONDS, PROBED_SECONDS = (0, 10, 60), 1, 6


class Recording(NamedTuple):
    """A clip: its pictures, the keys that were held while each was shown, and a caption of the first one."""

    pictures: list[np.ndarray]
    keys: list[list[str]]
    caption: str


Play = Callable[[str, int, argparse.Namespace], Iterable[Recording]]


def probes(keys: tuple[str, ...], fps: int, rng: np.random.Generator) -> dict[int, str]:
    """Return the key that is held alone while it is probed, "" for none, by the number of the picture.

    Raises:
        ValueError: There are more keys than can be probed in time.
    """
    if len(keys) + 1 > PROBED_SECONDS // PROBE_SECONDS:
        raise ValueError(f"keys: must be at most {PROBED_SECONDS // PROBE_SECONDS - 1} to be probed, got {len(keys)}")
    held: dict[int, str] = {}
    for start in PROBES:
        for index, key in enumerate(rng.permutation(("", *keys)).tolist()):
            first = (start + index * PROBE_SECONDS) * fps
            held |= dict.fromkeys(range(first, first + PROBE_SECONDS * fps), key)
    return held


def write_mp4(path: Path, pictures: list[np.ndarray], fps: int) -> None:
    """Write pictures as H.264: 4:4:4, BT.709, nearly without loss."""
    import av

    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "10", "preset": "medium", "bf": "0"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.gop_size, stream.thread_count = "yuv444p", fps, 1
        context = stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = context.color_range = 1
        for index, picture in enumerate(pictures):
            rgb = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame = rgb.reformat(format="yuv444p", dst_colorspace="ITU709", dst_color_range="MPEG")
            frame.pts, frame.time_base = index, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def main(description: str | None, games: Collection[str], play: Play, *, fps: int) -> None:
    """Record the clips, and print how many there are and how often each set of keys was held."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument("game", choices=list(games))
    parser.add_argument("--levels", default="0:300", help="FIRST:LAST, without LAST")
    parser.add_argument("--seconds", type=int, default=20, help="the longest recording of a level")
    parser.add_argument("--cut", type=int, default=4, help="seconds of a clip")
    parser.add_argument("--probes", action="store_true", help="hold each key alone at known times")
    parser.add_argument("--out", type=Path, required=True, help="a new or empty folder")
    parser.add_argument("--seed", type=int, default=0, help="of the player; the levels do not depend on it")
    options = parser.parse_args()
    first, last = map(int, options.levels.split(":"))
    options.out.mkdir(parents=True, exist_ok=True)
    if any(options.out.iterdir()):
        parser.error(f"--out must be a new or empty folder, got {str(options.out)!r}")
    clips, counts = 0, collections.Counter[str]()
    for level in range(first, last):
        for index, clip in enumerate(play(options.game, level, options)):
            if len(clip.pictures) < SHORTEST_SECONDS * fps:
                continue
            path = options.out / f"{options.game}-{level:06d}-{index:02d}"
            write_mp4(path.with_suffix(".mp4"), clip.pictures, fps)
            path.with_suffix(".jsonl").write_text("".join(json.dumps({"keys": keys}) + "\n" for keys in clip.keys))
            path.with_suffix(".txt").write_text(clip.caption + "\n")
            clips += 1
            counts.update("+".join(keys) or "none" for keys in clip.keys)
    total = counts.total()
    print(f"{clips} clips of {last - first} levels: {total} pictures, {total / fps / 60:.1f} minutes")
    print(", ".join(f"{name} {count / total:.1%}" for name, count in counts.most_common()))
