"""Jobs are kept on disk: they go on after the server has ended, in the same way."""

import time

import numpy as np
import pytest

from reelm.core.errors import CheckpointError
from reelm.generation.video import Video
from reelm.serving.answers import describe_job
from reelm.serving.job_store import CLIP, TOKENS, JobStore
from reelm.serving.jobs import QueueFullError
from reelm.serving.run import Run

OPTIONS = {"num_frames": 61, "guidance_scale": 1.0}


def submit(jobs, seed=1, **values):
    return jobs.submit({"model": "debug", "prompt": "a red ball", "options": OPTIONS | {"seed": seed}} | values)


def wait(jobs, identity):
    for _ in range(3000):
        job = jobs.store.get(identity)
        if job.is_over and jobs.run(identity) is None:  # its files are put away, too
            return job
        time.sleep(0.01)
    raise AssertionError(job)


def begin(jobs, identity, latent_frames):
    run = jobs.run(identity)
    while run.latent_frames < latent_frames:
        time.sleep(0.001)


def test_a_server_that_is_started_again_goes_on_where_it_was(make_jobs, debug_generator, tmp_path):
    jobs = make_jobs()
    ids = [submit(jobs, seed=seed).id for seed in range(3)]
    begin(jobs, ids[0], 3)
    jobs = make_jobs()  # closes the other one
    before = jobs.store.get(ids[0])
    assert before.status == "in_progress"
    tokens = jobs.store.folder(ids[0]) / TOKENS
    with tokens.open("ab") as file:
        file.write(b"half a latent frame"[:7])  # what a kill may leave
    drawn = tokens.stat().st_size // (4 * debug_generator.parts.lm.layout.frame_size)
    assert jobs.recover() == 3
    assert jobs.run(ids[0]).first_frame == drawn >= 3
    for seed, identity in enumerate(ids):
        assert wait(jobs, identity).status == "completed"
        video = Video.load(jobs.store.folder(identity) / CLIP)
        alone = debug_generator.generate("a red ball", seed=seed, **OPTIONS)
        assert np.array_equal(video.tokens, alone.tokens)
        assert np.array_equal(video.frames, Video.load(alone.save(tmp_path / f"{seed}.mp4")).frames)
        assert not (jobs.store.folder(identity) / TOKENS).exists()
    assert make_jobs().recover() == 0


def test_a_seed_is_chosen_once(make_jobs):
    jobs = make_jobs()
    job = jobs.submit({"model": "debug", "prompt": "a red ball", "options": OPTIONS})
    assert isinstance(job.asked["options"]["seed"], int)


def test_changes_of_a_clip_without_an_end_are_kept(make_jobs):
    jobs = make_jobs()
    identity = submit(jobs, options={"seed": 1, "guidance_scale": 1.0}, endless=True).id
    assert jobs.run(identity) is None, "nobody watches it"
    run = jobs.join(identity)
    jobs.allow(run, 3)
    begin(jobs, identity, 3)
    jobs.steer(run, "a blue ring")
    jobs.allow(run, 5)
    begin(jobs, identity, 5)
    jobs = make_jobs()
    assert jobs.recover() == 0  # nobody watches it
    again = jobs.join(identity)
    assert again.plan.prompts == ((0, "a red ball"), (3, "a blue ring")) and again.first_frame == 5
    jobs.stop(again)
    assert wait(jobs, identity).latent_frames == 5 and jobs.join(identity) is None


def test_a_clip_that_cannot_be_kept_fails_alone(make_jobs, monkeypatch):
    jobs, frame = make_jobs(), Run.frame

    def full(run, drawn):
        if run.plan.key.seed == 1:
            raise OSError("no space left on device")
        frame(run, drawn)

    monkeypatch.setattr(Run, "frame", full)
    ids = [submit(jobs, seed=seed).id for seed in (0, 1, 2)]
    found = [wait(jobs, identity) for identity in ids]
    assert [job.status for job in found] == ["completed", "failed", "completed"]
    assert found[1].error == "the clip could not be drawn"


def test_a_clip_that_takes_too_long_is_ended(make_jobs):
    jobs = make_jobs(drawing_seconds=1e-9)
    job = wait(jobs, submit(jobs).id)
    assert (job.status, job.error.partition(",")[0]) == ("failed", "clip: must be drawn in at most 1e-09 s")


def test_a_clip_is_deleted_while_it_is_drawn(make_jobs):
    jobs = make_jobs()
    identity = submit(jobs).id
    begin(jobs, identity, 2)
    assert jobs.delete(identity) and not jobs.delete(identity)
    while jobs.run(identity) is not None:
        time.sleep(0.01)
    assert jobs.store.get(identity) is None and not jobs.store.folder(identity).exists()


def test_one_clip_more_than_the_queue_holds_is_refused(make_jobs):
    jobs = make_jobs(jobs=2)
    for seed in range(2):
        submit(jobs, seed=seed)
    with pytest.raises(QueueFullError, match="jobs: must be at most 2 at a time"):
        submit(jobs)


def test_a_folder_is_of_one_server(make_jobs, tmp_path):
    make_jobs()
    with pytest.raises(CheckpointError, match="store: must not be used by another server"):
        JobStore(tmp_path / "clips")
    mine = tmp_path / "mine"
    (mine / "uploads").mkdir(parents=True)
    (mine / "uploads" / "thesis.pdf").write_text("years of work")
    with pytest.raises(CheckpointError, match="store: must be a new or empty folder, or one of a server"):
        JobStore(mine)
    assert (mine / "uploads" / "thesis.pdf").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "jobs.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(CheckpointError, match="store: must hold the jobs of a server"):
        JobStore(other)


def test_clips_for_viewers_take_no_place_while_nobody_watches(make_jobs):
    jobs = make_jobs(jobs=2)
    for seed in range(5):
        submit(jobs, seed=seed, endless=True, options={"seed": seed, "guidance_scale": 1.0})
        submit(jobs, seed=seed, live=True)
    assert jobs.running == 0
    assert wait(jobs, submit(jobs).id).status == "completed"


def test_a_clip_without_an_end_ends_at_the_longest_length(make_jobs):
    jobs = make_jobs(seconds=2)
    run = jobs.join(submit(jobs, endless=True, options={"seed": 1, "guidance_scale": 1.0}).id)
    jobs.allow(run, 10**9)
    job = wait(jobs, run.job.id)
    assert job.status == "completed" and job.latent_frames == run.most_frames == 5


def test_jobs_of_a_model_that_is_not_served_wait_for_it(make_jobs):
    jobs = make_jobs()
    identity = submit(jobs).id
    jobs = make_jobs()
    absent = jobs.generators.pop("debug")
    assert jobs.recover() == 0
    assert describe_job(jobs.store.get(identity), jobs)["size"] is None
    jobs.generators["debug"] = absent
    assert jobs.recover() == 1 and wait(jobs, identity).status == "completed"


def test_a_clip_that_is_deleted_while_it_is_written_leaves_nothing(make_jobs, monkeypatch):
    jobs, save = make_jobs(), Video.save

    def slow(video, path, **options):
        jobs.delete(path.parent.name)
        return save(video, path, **options)

    monkeypatch.setattr(Video, "save", slow)
    identity = submit(jobs).id
    jobs.run(identity).over.wait(60)
    assert not jobs.store.folder(identity).exists() and jobs.store.get(identity) is None
