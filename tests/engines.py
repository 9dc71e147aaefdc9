"""What tests of the engine share: tokens as they are written and as grids, and clips side by side, frame by frame."""

import torch

from reelm.sampling.engine import Engine
from reelm.sampling.plan import ClipPlan


def written(model, tokens_Bthw):
    """The tokens (B, S) of whole clips as the model writes them."""
    return model.layout.pack({"video": tokens_Bthw}).flatten(1)


def as_grids(model, values_BS):
    """Values (B, t * S) that belong to tokens as they are written, as grids (B, t, h, w)."""
    return model.layout.as_grids(values_BS.unflatten(1, (-1, model.layout.frame_size)))["video"]


class Frames:
    """An engine whose clips are looked at side by side, one latent frame after the other."""

    def __init__(self, model, plans, settings, **options):
        self.engine = Engine(model, settings, capacity=len(plans), **options)
        self.clips = [self.engine.add(plan) for plan in plans]
        self.waiting = {clip: [] for clip in self.clips}

    def next(self):
        """One more latent frame of every clip (B, h, w)."""
        while any(not self.waiting[clip] for clip in self.clips):
            for frame in self.engine.step():
                self.waiting[frame.clip].append(frame.tokens_S)
        tokens_BS = torch.stack([self.waiting[clip].pop(0) for clip in self.clips])
        return self.engine.layout.unpack(tokens_BS)["video"]

    def replace(self, place, plan: ClipPlan):
        """Have another clip come in the place of one."""
        self.clips[place] = self.engine.replace(self.clips[place], plan)
        self.waiting[self.clips[place]] = []

    def keep(self, places):
        """Have all clips go but these."""
        for place, clip in enumerate(self.clips):
            if place not in places:
                self.engine.remove(clip)
        self.clips = [self.clips[place] for place in places]
