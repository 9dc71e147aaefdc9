"""Clips of a scheduler are those of `generate`, whoever else is drawn, and watched ones come first."""

import dataclasses
import threading
import time

import numpy as np
import pytest
import torch

from reelm.core.errors import ReelmError
from reelm.generation import admission
from reelm.generation.request import make_request
from reelm.generation.steering import read_change
from reelm.serving import lane as lanes
from reelm.serving.drawing import Drawing
from reelm.serving.scheduler import Scheduler


class Collector:
    """Keeps what it is given."""

    def __init__(self):
        self.numbers, self.pictures, self.accepted, self.error = [], [], [], None
        self.plan, self.done = None, threading.Event()

    def tokens(self, first, tokens):
        assert first == len(self.accepted)
        self.accepted += tokens.tolist()

    def frame(self, frame):
        self.numbers.append(frame.number)
        self.pictures.append(frame.pictures_nHW3)

    def changed(self, plan):
        self.plan = plan

    def ended(self, error):
        self.error = error
        self.done.set()

    def frames(self):
        assert self.done.wait(60)
        if self.error is not None:
            raise self.error
        return np.concatenate(self.pictures)


both = pytest.mark.parametrize("scheduler", [True, False], ids=["a thread for pixels", "none"], indirect=True)


@pytest.fixture
def scheduler(debug_generator, request, monkeypatch):
    own_thread = getattr(request, "param", True)
    monkeypatch.setattr("reelm.serving.painter.can_overlap", lambda device: own_thread)
    scheduler = Scheduler(debug_generator.parts, capacity=3)
    yield scheduler
    scheduler.close()


def draw(scheduler, generator, prompt="a red ball", *, call="generate", live=True, past_tS=None, **options):
    request = make_request(generator.parts, call, prompt, {"guidance_scale": 1.0} | options)
    drawing = Drawing(request, Collector(), fps=generator.fps, live=live, past_tS=past_tS)
    scheduler.add(drawing)
    return drawing


@both
def test_clips_that_come_at_any_time_are_those_of_generate(scheduler, debug_generator):
    """More clips than there are rows, watched and not, of several lengths and settings."""
    settings = [{"num_frames": n, "seed": n, "temperature": t} for n in (5, 13, 9, 17) for t in (1.0, 0.7)]
    drawings = [draw(scheduler, debug_generator, live=n % 3 > 0, **each) for n, each in enumerate(settings)]
    for drawing, each in zip(drawings, settings, strict=True):
        alone = debug_generator.generate("a red ball", guidance_scale=1.0, **each)
        assert np.array_equal(drawing.watcher.frames(), alone.frames)
        layout = debug_generator.parts.lm.layout
        tokens_tS = torch.tensor(drawing.watcher.accepted).view(-1, layout.frame_size)
        assert np.array_equal(layout.unpack(tokens_tS)["video"].numpy(), alone.tokens)
        assert drawing.watcher.numbers == [*range(len(alone.tokens))]


def test_a_clip_goes_on_after_its_past(scheduler, debug_generator):
    whole = debug_generator.generate("a red ball", seed=3, num_frames=17, guidance_scale=1.0)
    past_tS = debug_generator.parts.lm.layout.pack({"video": torch.from_numpy(whole.tokens[:3])})
    drawing = draw(scheduler, debug_generator, seed=3, num_frames=17, past_tS=past_tS)
    drawing.watcher.tokens = lambda first, tokens: None
    assert np.array_equal(drawing.watcher.frames(), whole.frames[9:])
    complete = draw(scheduler, debug_generator, seed=3, num_frames=9, past_tS=past_tS)
    assert complete.watcher.done.wait(60) and complete.watcher.numbers == []


def test_a_clip_without_an_end_goes_as_far_as_it_is_allowed_and_ends_when_it_is_cancelled(scheduler, debug_generator):
    drawing = Drawing(
        make_request(debug_generator.parts, "stream", "a red ball", {"seed": 1, "guidance_scale": 1.0}), Collector(),
        fps=8.0,
    )  # fmt: skip
    drawing.allow(2)
    scheduler.add(drawing)
    other = draw(scheduler, debug_generator, seed=2, num_frames=21)
    other.watcher.frames()
    assert drawing.watcher.numbers == [0, 1]
    drawing.change(read_change(debug_generator.parts, drawing.request.sampling, 1, prompt="a blue ring"))
    drawing.allow(4)
    scheduler.wake()
    while len(drawing.watcher.numbers) < 4:
        time.sleep(0.01)
    assert drawing.watcher.plan.prompts == ((0, "a red ball"), (2, "a blue ring"))
    drawing.cancel()
    scheduler.wake()
    changed = debug_generator.generate([(0, "a red ball"), (5 / 8, "a blue ring")], seed=1, num_frames=13,
                                       guidance_scale=1.0)  # fmt: skip
    assert np.array_equal(drawing.watcher.frames(), changed.frames)


def test_watched_clips_come_before_others_unless_they_are_far_ahead(debug_generator, monkeypatch):
    scheduler = Scheduler(debug_generator.parts, capacity=3)
    try:
        order = []
        monkeypatch.setattr(lanes.Lane, "_hand_over", noted(order))
        scheduler.guests.add(lambda: True)  # so that nobody begins before all are there
        job = draw(scheduler, debug_generator, live=False, seed=1, num_frames=29)
        viewer = draw(scheduler, debug_generator, seed=2, num_frames=29)
        viewer.watcher.frames()
        assert {live for live, _ in order} == {True}
        scheduler.guests.clear()
        scheduler.wake()
        job.watcher.frames()
        order.clear()
        late = draw(scheduler, debug_generator, seed=3, num_frames=29)
        late.fps = 1e9  # always late
        other = draw(scheduler, debug_generator, live=False, seed=4, num_frames=29)
        late.watcher.frames()
        assert sum(not live for live, _ in order) <= 1
        other.watcher.frames()
    finally:
        scheduler.close()


def noted(order):
    whole = lanes.Lane._hand_over

    def hand_over(self, frame):
        order.append((self._drawings[frame.clip].live, frame.number))
        whole(self, frame)

    return hand_over


def test_what_fails_ends_its_clips_and_nothing_else(scheduler, debug_generator, monkeypatch):
    def broken(self):
        raise RuntimeError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(lanes.Lane, "step", broken)
        drawing = draw(scheduler, debug_generator, seed=1)
        with pytest.raises(RuntimeError, match="no memory"):
            drawing.watcher.frames()
    assert len(draw(scheduler, debug_generator, seed=1, num_frames=5).watcher.frames()) == 5


def test_a_lane_has_as_many_rows_as_fit_and_waits_for_memory(debug_generator, monkeypatch):
    parts, free = debug_generator.parts, [2**40]
    request = make_request(parts, "generate", "a red ball", {"guidance_scale": 1.0, "num_frames": 13})
    two = admission.admit(parts, dataclasses.replace(request, plans=request.plans * 2, batch_size=2), whole=False)
    monkeypatch.setattr(admission, "available_memory", lambda device: free[0])
    drawing = Drawing(request, Collector(), fps=8.0)
    assert lanes.fitting_capacity(parts, drawing, 7) == 7
    free[0] = two.call
    assert lanes.fitting_capacity(parts, drawing, 7) == 2
    scheduler = Scheduler(parts, capacity=7)
    try:
        first = Drawing(make_request(parts, "stream", "a red ball", {"seed": 1}), Collector(), fps=8.0)
        first.allow(2)
        scheduler.add(first)
        while len(first.watcher.numbers) < 2:
            time.sleep(0.01)
        free[0] = 0
        second = draw(scheduler, debug_generator, seed=2, num_frames=5, temperature=0.5)
        assert not second.watcher.done.wait(0.1) and second.watcher.numbers == []
        free[0] = two.call
        first.cancel()
        scheduler.wake()
        assert len(second.watcher.frames()) == 5
        free[0] = 0
        with pytest.raises(ReelmError, match="memory: must be at least"):
            draw(scheduler, debug_generator, seed=2, num_frames=5, temperature=0.6).watcher.frames()
    finally:
        scheduler.close()


def test_a_closed_scheduler_ends_all_clips(debug_generator):
    scheduler = Scheduler(debug_generator.parts, capacity=1)
    drawings = [draw(scheduler, debug_generator, seed=n, num_frames=400) for n in range(3)]
    scheduler.close()
    for drawing in drawings:
        assert drawing.watcher.done.wait(1) and drawing.watcher.error is None


@both
def test_what_fails_of_one_clip_ends_it_alone(scheduler, debug_generator, monkeypatch):
    """A watcher that fails in any of its calls, and a lane for which there is no memory."""
    others = [draw(scheduler, debug_generator, seed=n, num_frames=41) for n in range(2)]
    request = make_request(debug_generator.parts, "generate", "a red ball", {"guidance_scale": 1.0, "seed": 9})
    broken = []
    for name in ("tokens", "frame"):
        watcher = Collector()
        setattr(watcher, name, lambda *_: 1 / 0)
        broken.append(Drawing(request, watcher, fps=8.0))
        scheduler.add(broken[-1])
    for drawing in broken:
        assert drawing.watcher.done.wait(60) and isinstance(drawing.watcher.error, ZeroDivisionError)
    with monkeypatch.context() as patch:
        patch.setattr(lanes, "Engine", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            draw(scheduler, debug_generator, seed=1, temperature=0.3).watcher.frames()
    assert all(len(drawing.watcher.frames()) == 41 for drawing in others)
    assert len(draw(scheduler, debug_generator, seed=1, num_frames=5).watcher.frames()) == 5


def test_viewers_of_other_settings_take_turns(scheduler, debug_generator):
    """On a machine that is always late, the second clip is not left until the first one is complete."""
    first = draw(scheduler, debug_generator, seed=1, num_frames=201)
    second = draw(scheduler, debug_generator, seed=2, num_frames=41, temperature=0.5)
    first.fps = second.fps = 1e9
    second.watcher.frames()
    assert len(first.watcher.numbers) < 51
    first.watcher.frames()


def test_batches_of_other_settings_leave_lanes_to_viewers(debug_generator, monkeypatch):
    monkeypatch.setattr("reelm.serving.scheduler.MOST_LANES", 1)
    scheduler = Scheduler(debug_generator.parts, capacity=1)
    try:
        jobs = [draw(scheduler, debug_generator, live=False, seed=n, num_frames=401, temperature=1 - n / 10)
                for n in range(3)]  # fmt: skip
        assert len(draw(scheduler, debug_generator, seed=2, num_frames=5).watcher.frames()) == 5
        assert not any(job.watcher.done.is_set() for job in jobs[1:])
    finally:
        scheduler.close()
