"""What a server answers of its clips and of itself: JSON in the shape of OpenAI's videos API, and Prometheus's text."""

import re
from typing import Any

from ..core.json_values import Json
from .job_store import Job
from .jobs import Jobs


def describe_job(job: Job, jobs: Jobs) -> Json:
    """Return what a client sees of a job; its size is not known where its model is not served now."""
    run, name = jobs.run(job.id), str(job.asked["model"])
    config = jobs.generators[name].parts.config if name in jobs.generators else None
    latent = job.latent_frames or (0 if run is None else run.latent_frames)
    ends = job.latent_frames or (None if run is None else run.plan.latent_frames)
    frames = None if config is None or ends is None else config.tokenizer.compression.frames(ends)
    error: Json | None = None if job.error is None else {"code": "failed", "message": job.error}
    options: Any = job.asked["options"]
    return {
        "id": job.id, "object": "video", "status": job.status, "model": name, "error": error, "options": options,
        "progress": 100 if job.status == "completed" else 0 if run is None else min(99, run.progress),
        "created_at": int(job.created), "completed_at": None if job.ended is None else int(job.ended),
        "size": None if config is None else f"{config.width}x{config.height}",
        "fps": None if config is None else config.fps, "num_frames": frames, "latent_frames": latent,
        "seconds": None if frames is None or config is None else f"{frames / config.fps:g}",
        "prompt": job.asked.get("prompt"), "endless": bool(job.asked.get("endless")),
        "continues": job.asked.get("source") is not None,
    }  # fmt: skip


def without_paths(message: str, jobs: Jobs) -> str:
    """Return an error message without the folders of the server."""
    return re.sub(f"{re.escape(str(jobs.store.uploads.parent))}(/[\\w-]+)*/", "", message)


def list_of(found: list[Json], limit: int) -> Json:
    """Return a page of a list, which was read with one more than its limit."""
    shown = found[:limit]
    ends = {"first_id": shown[0]["id"], "last_id": shown[-1]["id"]} if shown else {"first_id": None, "last_id": None}
    return {"object": "list", "data": shown, "has_more": len(found) > limit, **ends}  # type: ignore[dict-item]


def metrics(jobs: Jobs, sockets: int, plays: int) -> str:
    """Return the figures of the server in Prometheus's text format."""
    figures = {
        "reelm_jobs_running": ("gauge", "Clips that are drawn or wait.", jobs.running),
        "reelm_sockets_open": ("gauge", "Open WebSockets.", sockets),
        "reelm_plays_open": ("gauge", "Worlds that are played.", plays),
        "reelm_passes_total": ("counter", "Passes of the language models.",
                               sum(scheduler.passes for scheduler in jobs.schedulers.values())),
    }  # fmt: skip
    lines = []
    for name, (kind, text, value) in figures.items():
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", f"{name} {value}"]
    return "\n".join(lines) + "\n"
