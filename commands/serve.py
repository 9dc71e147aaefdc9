"""The command that serves models over HTTP: serve."""

import os
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import ReelmError
from .base import Command


@dataclass(frozen=True, kw_only=True)
class Serve(Command):
    """Serve models on this machine: a page on which clips appear as they are drawn, and an HTTP API beside it.

    Ctrl-C and SIGTERM stop it. Clips that are not complete by then go on when it is started again.

    Attributes:
        model: The names of bundled models, checkpoint folders or hub ids; the first one is the default.
        host: The address to listen at. Any other than that of this machine alone needs a token.
        port: The port; 0 takes a free one.
        out: The folder for clips and jobs.
        token: What requests have to bring along ("Authorization: Bearer TOKEN"), or a file that holds it.
        device: The device to compute on: auto, cpu or cuda[:n].
    """

    example = "reelm serve --model world run --port 8000"
    model: tuple[str, ...] = ("world",)
    host: str = "127.0.0.1"
    port: int = 8000
    out: Path = Path("reelm-clips")
    token: str | None = None
    device: str = "auto"

    def run(self) -> int:
        try:
            import torch

            from ..core.device import cpu_cores
            from ..core.memory import map_large_blocks
            from ..serving.server import serve
        except ImportError as error:
            raise ReelmError(f"serve: must have its extra (pip install 'reelm[serve]'), got {error}") from error
        if "OMP_NUM_THREADS" not in os.environ:  # the others are for decoding pixels, and for those who ask
            torch.set_num_threads(max(1, cpu_cores() // 2))
        map_large_blocks()
        return serve(
            self.model, host=self.host, port=self.port, out=self.out, token=self.token, device=self.device,
            say=lambda line: print(line, flush=True),
        )  # fmt: skip
