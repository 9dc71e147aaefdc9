"""The report of a benchmark: figures by name, printed as a list and a table, and drawn as a plot.

report = describe(parts, sampling, decoder, batch, latent_frames=4, check=False)        # the model and the machine
report["rows"] = [{"row": "reelm", …}]
print(report); json.dumps(report); report.plot(Path("rows.png"))
"""

import statistics
from pathlib import Path
from typing import Any

import torch

from ..core.errors import require
from ..core.files import atomic_path, check_writable
from ..generation.pretrained import Pretrained
from ..sampling.decoder import Decoder
from ..sampling.plan import SamplingConfig
from .machine import library_versions, machine_name, measure_ceilings
from .table import list_lines, table_lines

# The tables that a report can have, and their columns.
TABLES = {
    "rows": ("row", "tokens_per_second", "ratio", "ms_per_token", "tokens_per_pass", "p50_ms", "p95_ms", "bandwidth",
             "arithmetic", "mismatching_tokens", "logits_difference", "note"),
    "depths": ("latent_frame", "wrapped", "tokens_per_second", "ratio", "ms_per_latent_frame", "passes"),
    "batches": ("clips", "tokens_per_second", "ratio", "ms_per_latent_frame", "tokens_per_pass", "note"),
}  # fmt: skip


class BenchmarkReport(dict[str, Any]):
    """Figures by name; printed as a list and a table of the rows, or of the points of a sweep."""

    def __str__(self) -> str:
        values = {name: value for name, value in self.items() if name not in TABLES}
        lines = list_lines(values)
        for name in TABLES:
            if name in self:
                lines += ["", *_table(TABLES[name], self[name])]
        return "\n".join(lines)

    @property
    def ok(self) -> bool:
        """Whether every row passed its checks."""
        return all(row.get("ok", True) for row in self.get("rows", []))

    def plot(self, path: Path) -> None:
        """Draw the tokens per second of the rows, or of the points of a sweep, as a PNG.

        This needs matplotlib, which is in the `train` extra.

        Raises:
            ReelmError: The path cannot be written, or does not end in .png.
        """
        check_plot(path)
        from matplotlib.figure import Figure

        (name,) = (table for table in TABLES if table in self)
        points = self[name]
        figure = Figure(figsize=(8, 1 + 0.5 * len(points) if name == "rows" else 4), layout="constrained")
        axes = figure.subplots()
        if name == "rows":
            points = points[::-1]
            bars = axes.barh([row["row"] for row in points], [_rate(row) for row in points])
            axes.bar_label(bars, [_label(row) for row in points], padding=3)
            axes.margins(x=0.25)
            axes.set_xlabel("tokens a second")
        else:
            variable = TABLES[name][0]
            axes.plot([point[variable] for point in points], [_rate(point) for point in points], marker="o")
            axes.set_xticks([point[variable] for point in points])
            axes.set_xlabel(variable.replace("_", " "))
            axes.set_ylabel("tokens a second")
            axes.set_ylim(bottom=0)
        guidance = f"guidance {self['guidance_scale']:g} in {self['rows_per_clip']} rows a clip"
        title = f"{self['model']} on {self['device']}, {self['threads']} threads, batch {self['batch']}, {guidance}"
        axes.set_title(title, fontsize="medium")
        with atomic_path(path) as temporary:
            figure.savefig(temporary)


def check_plot(path: Path) -> None:
    """Refuse a path that `BenchmarkReport.plot` cannot write, before anything is measured."""
    check_writable(path, "plot")
    require(path.suffix.lower() == ".png", "plot", "must end in .png", str(path))


def describe(
    parts: Pretrained, sampling: SamplingConfig, decoder: Decoder, batch: int, *, latent_frames: int, check: bool
) -> BenchmarkReport:
    """Make a report of the model, the machine with its measured ceilings, and the settings.

    `bytes_per_pass` are the bytes that a pass has to read: all weights that a token needs, and the keys and values that
    a token attends to, averaged over the clip.

    Args:
        parts: The parts of the model.
        sampling: The settings by which tokens are drawn.
        decoder: The decoder of the default row.
        batch: The number of clips at once.
        latent_frames: The latent frames of a clip.
        check: Whether to use tiny sizes for the ceilings.
    """
    lm, layout = parts.lm, parts.lm.layout
    rows_per_clip = sampling.rows(lm.guidance)
    rows = batch * rows_per_clip
    block, window = getattr(decoder, "block_size", 1), parts.config.lm.window
    cost, numerics = lm.cost(rows, block), lm.numerics
    # On average a token sees half of its own latent frame.
    visible_frames = statistics.mean(min(frame, window - 1) + 0.5 for frame in range(latent_frames))
    visible_share = visible_frames / (window + layout.frames(block))
    return BenchmarkReport(
        model=parts.name,
        device=machine_name(lm.device),
        torch=torch.__version__,
        versions=library_versions(),
        threads=torch.get_num_threads(),
        dtype=str(numerics.dtype).removeprefix("torch."),
        **measure_ceilings(lm.device, numerics.dtype, check=check),
        decoder=decoder.name,
        batch=batch,
        guidance_scale=sampling.guidance_scale,
        rows_per_clip=rows_per_clip,
        temperature=sampling.temperature,
        **numerics.precisions,
        cache_bytes=cost.state * rows,
        bytes_per_pass=cost.read + int(visible_share * cost.state * rows),
    )


def _rate(row: dict[str, Any]) -> float:
    """Return the tokens per second to draw, which are 0 for a row that failed its checks."""
    return row["tokens_per_second"] if row.get("ok", True) else 0.0


def _label(row: dict[str, Any]) -> str:
    return f"{row['tokens_per_second']:.0f} ({row['ratio']:.2f}x)" if row.get("ok", True) else "FAIL"


def _table(columns: tuple[str, ...], rows: list[dict[str, Any]]) -> list[str]:
    failed = {"tokens_per_second": "FAIL", "ratio": None, "ms_per_token": None}
    return table_lines(columns, [row if row.get("ok", True) else row | failed for row in rows])
