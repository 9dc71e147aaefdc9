"""The jobs of a server: clips that are drawn, watched, kept, and gone on with after a kill.

    jobs = Jobs({"world": generator}, JobStore(folder), Limits())
    jobs.recover()
    job = jobs.submit({"model": "world", "prompt": "a red ball", "options": {"seconds": 2}})
    async for item in jobs.run(job.id).hub.watch(): ...      # `Accepted` tokens and `DrawnFrame`s
    jobs.store.folder(job.id) / CLIP                         # when it is completed
    jobs.close()

The tokens of a clip are written as their latent frames complete. A killed server reads them again, and draws what
would have followed: the tokens of a clip depend on its plan and its seed alone.
"""

import dataclasses
import logging
import shutil
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..core.errors import ReelmError, require
from ..core.json_values import Json
from ..core.memory import return_freed_memory
from ..generation.generator import VideoGenerator
from ..generation.session import SessionState
from ..generation.steering import read_change
from ..generation.video import Video
from .clip_request import AskedClip, cut, read_asked
from .job_store import CLIP, INPUT, TOKENS, Job, JobStore, new_id
from .limits import Limits
from .run import Run, append_tokens, for_viewers
from .scheduler import Scheduler

log = logging.getLogger(__name__)


class QueueFullError(ReelmError):
    """As many clips as are allowed are drawn or wait."""


class Jobs:
    """The clips of a server.

    Attributes:
        generators: The models by name; the first one is the default.
        store: The jobs on disk.
        limits: The limits of the server.
        schedulers: The scheduler of each model, by name.
    """

    def __init__(self, generators: Mapping[str, VideoGenerator], store: JobStore, limits: Limits) -> None:
        self.generators, self.store, self.limits = generators, store, limits
        self.schedulers = {
            name: Scheduler(generator.parts, capacity=limits.clips) for name, generator in generators.items()
        }
        self._runs: dict[str, Run] = {}
        # Held for short times only: nothing is read or decoded under it.
        self._lock, self._closing, self._coming = threading.Lock(), False, 0
        self._writer = ThreadPoolExecutor(1, "writer")

    @property
    def running(self) -> int:
        """The jobs that are drawn or wait."""
        return len(self._runs)

    def generator(self, name: object = None) -> VideoGenerator:
        """Return the model of this name; the first one unless a name is given.

        Raises:
            ReelmError: There is none.
        """
        return self.generators[self._name(name)]

    def scheduler(self, name: object = None) -> Scheduler:
        """Return the scheduler of the model of this name; see `generator`."""
        return self.schedulers[self._name(name)]

    def run(self, identity: str) -> Run | None:
        """Return a job that is drawn or waits."""
        return self._runs.get(identity)

    def submit(
        self, asked: Json, *, source: Path | None = None, of: Job | None = None, frames: int | None = None
    ) -> Job:
        """Accept a clip, or refuse it.

        Args:
            asked: The model, the prompt, the options, whether it is `endless` and whether somebody will watch (`live`);
                such clips are drawn while somebody does.
            source: A file of the clip to continue, which is moved into the folder of the job.
            of: The job whose clip is continued.
            frames: The pictures of that clip after which it is continued; all unless given.

        Raises:
            QueueFullError: There are too many; nothing was accepted.
            ReelmError: An argument is refused.
        """
        with self._lock:
            if self._closing or self.running + self._coming >= self.limits.jobs:
                raise QueueFullError(f"jobs: must be at most {self.limits.jobs} at a time, got one more")
            self._coming += 1
        try:
            return self._submit(asked, source, of, frames)
        finally:
            with self._lock:
                self._coming -= 1

    def keep(self, asked: Json, session: SessionState) -> Job:
        """Keep a clip that was drawn elsewhere, such as a play, as a job of which nothing but its file is missing.

        Args:
            asked: What it would be asked for by.
            session: Its tokens.

        Raises:
            ReelmError: An argument is refused.
        """
        name, identity = self._name(asked.get("model")), new_id()
        parts, folder = self.generators[name].parts, self.store.folder(identity)
        clip = read_asked(parts, {**asked, "model": name}, None, self.limits, drawn=True)
        folder.mkdir()
        try:
            append_tokens(folder / TOKENS, parts.lm.layout.pack({**session.segments, "video": session.tokens_thw}))
            job = self.store.add(clip.asked, identity=identity)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._start(job, clip)
        return job

    def recover(self) -> int:
        """Go on with the jobs that a server has left, and return how many there are.

        Clips for viewers wait until somebody watches them again, and clips of models that are not served for a server
        that has these.
        """
        jobs = [job for job in self.store.unfinished() if not for_viewers(job)]
        return sum(self._begin_again(job) is not None for job in jobs)

    def join(self, identity: str, *, tokens: bool = False) -> Run | None:
        """Watch a job, which begins or goes on where it was left; return None where nothing more comes of it.

        It may take as long as reading the clip that it continues.

        Args:
            identity: The id of the job.
            tokens: Whether its tokens are watched, too.

        Raises:
            QueueFullError: As many as are allowed are drawn.
        """
        while True:
            with self._lock:
                run = self._runs.get(identity)
                if run is not None and not run.parked:
                    run.viewers += 1
                    run.shows_tokens |= tokens
                    return run
                if run is None and self.running >= self.limits.jobs:
                    raise QueueFullError(f"jobs: must be at most {self.limits.jobs} at a time, got one more")
            if run is not None:
                run.over.wait(60)  # until it is put away
                continue
            job = self.store.get(identity)
            if job is None or job.is_over or self._begin_again(job, tokens=tokens) is None:
                return None

    def leave(self, run: Run) -> None:
        """Watch a job no longer. A clip for viewers is parked when the last one leaves."""
        with self._lock:
            run.viewers -= 1
            if run.viewers or not for_viewers(run.job) or run.stopping or run.deleted:
                return
            run.parked = True
        self._cancel(run)

    def delete(self, identity: str) -> bool:
        """Stop a job and delete what it has made; return whether there was one."""
        found = self.store.delete(identity)
        with self._lock:
            run = self._runs.get(identity)
            if run is not None:
                run.deleted = True
        if run is not None:
            self._cancel(run)
        elif found:
            self.store.delete_files(identity)
        return found

    def stop(self, run: Run) -> None:
        """End a clip with the latent frames that it has, or with its first one."""
        run.stopping = True
        if run.latent_frames:
            self._cancel(run)

    def steer(self, run: Run, prompt: str) -> None:
        """Change the prompt of a clip from its first latent frame on that is not begun.

        Raises:
            ReelmError: The prompt is refused.
        """
        run.drawing.change(read_change(run.parts, run.clip.request.sampling, run.plan.key.seed, prompt=prompt))
        self._wake(run)

    def allow(self, run: Run, latent_frames: int) -> None:
        """Let a clip without an end be drawn so far."""
        run.drawing.allow(min(latent_frames, run.most_frames))
        self._wake(run)

    def begin(self, run: Run) -> None:
        """Write that a job has begun."""
        run.job = dataclasses.replace(run.job, status="in_progress")
        self.store.update(run.job.id, status="in_progress")

    def keep_prompts(self, run: Run) -> None:
        """Write the prompts of a clip that was changed."""
        self.store.update(run.job.id, prompts=list(run.plan.prompts))

    def finish(self, run: Run, error: Exception | None) -> None:
        """Have the clip of a run written by another thread, unless it is to be gone on with later."""
        self._writer.submit(self._finish, run, error)
        self._writer.submit(return_freed_memory)

    def close(self) -> int:
        """Stop drawing; return how many clips are not complete, which go on when a server is started again."""
        with self._lock:
            self._closing = True
        for scheduler in self.schedulers.values():
            scheduler.close()
        self._writer.shutdown()
        waiting = len(self.store.unfinished())
        self.store.close()
        return waiting

    def _name(self, name: object) -> str:
        chosen = next(iter(self.generators)) if name is None else name
        known = isinstance(chosen, str) and chosen in self.generators
        require(known, "model", f"must be one of {', '.join(self.generators)}", chosen)
        return str(chosen)

    def _submit(self, asked: Json, source: Path | None, of: Job | None, frames: int | None) -> Job:
        own = None if of is None else of.asked["model"]
        name, identity = self._name(asked.get("model", own)), new_id()
        same = own in (None, name)
        require(same, "model", f"must be {own}, the model of the clip that is continued", name)
        folder = self.store.folder(identity)
        folder.mkdir()
        try:
            given = self._take_source(folder, name, source, of, frames)
            clip = read_asked(self.generators[name].parts, {**asked, "model": name}, given, self.limits)
            kept = {**clip.asked, "source": None if given is None else given.name}
            job = self.store.add(kept, identity=identity)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if not for_viewers(job):
            self._start(job, clip)
        return job

    def _begin_again(self, job: Job, *, tokens: bool = False) -> Run | None:
        """Go on with a job; return None where that is not possible now: no such model is served, or memory is short."""
        source = job.asked.get("source")
        try:
            parts, folder = self.generator(job.asked["model"]).parts, self.store.folder(job.id)
            clip = read_asked(parts, job.asked, None if source is None else folder / str(source), self.limits)
        except ReelmError as error:
            log.warning("%s waits: %s", job.id, error)
            return None
        if job.prompts is not None:
            plan = dataclasses.replace(clip.plan, prompts=tuple(job.prompts))
            clip = dataclasses.replace(clip, request=dataclasses.replace(clip.request, plans=[plan]))
        return self._start(job, clip, tokens=tokens)

    def _start(self, job: Job, clip: AskedClip, *, tokens: bool = False) -> Run | None:
        """Let a clip be drawn, unless that is done already; return None where the server stops."""
        with self._lock:
            if job.id in self._runs or self._closing:
                return self._runs.get(job.id)
            parts, folder = self.generator(job.asked["model"]).parts, self.store.folder(job.id)
            run = Run(self, job, clip, parts, folder, self.limits)
            run.shows_tokens = tokens
            if run.plan.latent_frames is None:
                run.drawing.allow(run.first_frame)  # until somebody watches
            self._runs[job.id] = run
        if run.latent_frames == run.plan.latent_frames:  # it is drawn, and not written
            self.finish(run, None)
        else:
            self.scheduler(job.asked["model"]).add(run.drawing)
        return run

    def _cancel(self, run: Run) -> None:
        run.drawing.cancel()
        self._wake(run)

    def _wake(self, run: Run) -> None:
        self.scheduler(run.job.asked["model"]).wake()

    def _take_source(
        self, folder: Path, name: str, source: Path | None, of: Job | None, frames: int | None
    ) -> Path | None:
        """Bring the clip to continue into the folder of its job, and return its path."""
        if source is not None:
            return Path(shutil.move(source, folder / f"{INPUT}{source.suffix}"))
        if of is None:
            return None
        whole = self.store.folder(of.id) / CLIP
        require(of.status == "completed" and whole.is_file(), "video", "must be completed to be continued", of.status)
        if frames is None:
            return Path(shutil.copy(whole, folder / f"{INPUT}{whole.suffix}"))
        session = Video.load(whole).to_session()
        assert session is not None  # the server has written it
        most = self.generators[name].parts.tokenizer.compression.frames(len(session.tokens_thw))
        require(1 <= frames <= most, "frames", f"must be from 1 to {most}", frames)
        kept = self.generators[name].parts.tokenizer.compression.latent_frames(frames)
        return cut(session, kept).save(folder / f"{INPUT}.safetensors")

    def _finish(self, run: Run, error: Exception | None) -> None:
        identity, drawn = run.job.id, run.latent_frames
        try:
            if run.deleted:
                return
            if error is not None:
                told = str(error) if isinstance(error, ReelmError) else "the clip could not be drawn"
                self.store.update(identity, status="failed", error=told)
            elif drawn == run.plan.latent_frames or (run.stopping and drawn):
                run.video().save(self.store.folder(identity) / CLIP)
                self.store.update(identity, status="completed", latent_frames=drawn)
                (self.store.folder(identity) / TOKENS).unlink(missing_ok=True)
        except Exception:
            log.exception("a clip could not be written")
            self.store.update(identity, status="failed", error="the clip could not be written")
        finally:
            with self._lock:
                self._runs.pop(identity, None)
                deleted = run.deleted
            if deleted:
                self.store.delete_files(identity)
            run.hub.close()
            run.over.set()
