"""`make golden`: computes all numbers again, tells what changed, and writes numbers.json.

It prints the smallest gap of every case (gaps.py), and refuses, with exit code 1 and nothing written, seeds with which
rounding could turn a token.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from reelm.tests.golden import ledger, pixel_cases, score_cases, token_cases, training_cases
from reelm.tests.golden.gaps import LEAST, drawn
from reelm.tests.golden.models import STRIDE, TEMPORAL, Models, has_int8_weights


def make(folder: Path, old: dict[str, Any]) -> Iterator[tuple[str, str, Any, float | None]]:
    """(kind, name, numbers, smallest gap or None where nothing is drawn) of every case."""
    models = Models(folder / "models")
    for index, (name, case) in enumerate(token_cases.CASES.items()):
        files = folder / f"tokens-{index}"
        files.mkdir()
        if case.weights == "int8" and not has_int8_weights():
            print(f"{name}: kept as it was, this machine has no int8 products")
            yield "tokens", name, old["tokens"][name], None
            continue
        with drawn() as draws:
            videos = case.run(models, files)
        longest = max(video.tokens.size for video in videos)
        yield "tokens", name, ledger.token_numbers(videos), draws.smallest(longest)
    for name, frames_of in pixel_cases.CASES.items():
        with drawn() as draws:
            frames = frames_of(models)
        longest = (frames.shape[1] - 1 + TEMPORAL) // TEMPORAL * frames[0, 0, ..., 0].size // STRIDE**2
        yield "pixels", name, ledger.pixel_numbers(frames), draws.smallest(longest) if draws.gaps else None
    for name, nats_of in score_cases.CASES.items():
        with drawn() as draws:
            nats = nats_of(models)
        yield "scores", name, ledger.score_numbers(nats), draws.smallest(nats.size) if draws.gaps else None
    for name in training_cases.CASES:
        run = folder / name
        run.mkdir()
        yield "losses", name, ledger.loss_numbers(*training_cases.run(name, run)), None


def main() -> int:
    """Exit code 0, or 1 where a gap is too small."""
    torch.set_num_threads(1)
    old: dict[str, Any] = ledger.read() if ledger.PATH.exists() else {}
    new: dict[str, Any] = {}
    close, changed = [], 0
    with tempfile.TemporaryDirectory() as folder:
        for kind, name, entry, gap in make(Path(folder), old):
            new.setdefault(kind, {})[name] = entry
            before = old.get(kind, {}).get(name)
            told = "new" if before is None else "same" if before == entry else "CHANGED"
            changed += told != "same"
            print(f"{kind:7} {name:35} {told:8}" + ("" if gap is None else f"smallest gap {gap:.2g}"), flush=True)
            if told == "CHANGED":
                print(f"    before {before}\n    now    {entry}")
            if gap is not None and gap < LEAST:
                close.append(f"{kind} {name} ({gap:.2g})")
    for kind, cases in old.items():
        gone = [name for name in cases if name not in new.get(kind, {})]
        changed += len(gone)
        for name in gone:
            print(f"{kind:7} {name:35} GONE")
    if close:
        print(f"refused, a gap below {LEAST}: {', '.join(close)}; give them other seeds (token_cases.SEEDS)")
        return 1
    ledger.write(new)
    print(f"{changed} numbers changed" if changed else "nothing changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
