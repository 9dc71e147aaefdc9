"""The judge: what a clip of the world shows, measured from its pixels alone, in the words of `scene`.

    verdicts = judge(frames_BTHW3)                      # uint8; one object a clip
    verdicts[0].objects[0].colour, verdicts[0].camera
    accuracy(verdicts, scenes)                          # {"colour": 1.0, ..., "all": 0.99}

No part of it is learned. Each factor is the nearest of the world's own possibilities: palettes for colour and
background, turned and shaded shapes for shape and spinning, paths for motion, and for the camera the warp that carries
one frame's background into another's. So it can also measure blurred and slightly wrong clips, such as generated ones.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..core.errors import require
from .measure import (
    MIN_EVIDENCE,
    PATCH,
    PATCH_REACH,
    Pose,
    find_objects,
    measure_background,
    normalise,
    soft_cover,
    track,
)
from .render import CIRCLE, HOP, PAN, ZOOM, ZOOM_FRAMES
from .scene import BACKGROUNDS, CAMERAS, COLOURS, SHAPES, TRAVEL, Scene
from .textures import FIELD_REACH, shape_fields

CHUNK = 4  # clips judged at once: their temporaries stay in the processor's cache
TURN = 5  # degrees between two angles that are told apart; a slow spin's step
RATES = (0, 1, -1, 2, -2)  # steps of TURN a frame
TONE_WEIGHT = 0.5  # of the shading beside the outline, when a shape is compared
BLURS = (0.0, 0.2)  # radii: shapes are also known when a tokenizer has rounded their corners
SPIN_GAIN = 0.97  # a turning shape must fit this much better than one at rest
GROWTH = 0.007  # change of log radius a frame; the slowest of the world is 0.014
STRIDE = 2  # frames between those that the camera is measured from
NOTHING = "none"


@dataclass(frozen=True)
class ObjectVerdict:
    """What one object looks like and does; "none" where there is no object."""

    colour: str
    shape: str
    motion: str


@dataclass(frozen=True)
class Verdict:
    """What one clip shows; the background is "none" where no background of the world is near."""

    objects: tuple[ObjectVerdict, ...]
    background: str
    camera: str


@torch.no_grad()
def judge(frames_BTHW3: torch.Tensor, *, objects: int = 1) -> list[Verdict]:
    """Measure clips, each of `objects` objects, from the start of their scenes: growth and zooms end after seconds.

    Args:
        frames_BTHW3: (B, T, H, W, 3) uint8, at least 5 frames of at least 32 x 32 pixels, 8 frames a second.
        objects: 1 or 2; the more visible one comes first.

    Raises:
        ReelmError: another shape or type of frames, or number of objects.
    """
    shape = tuple(frames_BTHW3.shape)
    require(frames_BTHW3.dtype == torch.uint8, "frames", "must be uint8", frames_BTHW3.dtype)
    require(len(shape) == 5 and shape[-1] == 3, "frames", "must have the shape (B, T, H, W, 3)", shape)
    require(shape[1] >= 5 and min(shape[2:4]) >= 32, "frames", "must be at least 5 of at least 32 x 32 pixels", shape)
    require(objects in (1, 2), "objects", "must be 1 or 2", objects)
    return [verdict for chunk in frames_BTHW3.split(CHUNK) for verdict in _judge_chunk(chunk, objects)]


def _judge_chunk(frames: torch.Tensor, count: int) -> list[Verdict]:
    video = normalise(frames)
    ground = measure_background(video)
    found = find_objects(video, ground, count=count)
    pose = track(found.mask.flatten(0, 1), found.tone.flatten(0, 1))
    shape_M, spins_M = _match_shapes(pose)
    motions = _match_motions(pose, spins_M)
    camera_B = _match_camera(ground.share_BTHW, found.mask.amax(1))
    verdicts = []
    for b in range(len(frames)):
        things = []
        for n in range(count):
            m = b * count + n
            there = float(found.evidence_BX[b, n]) >= MIN_EVIDENCE
            names = (COLOURS[int(found.colour_BX[b, n])], SHAPES[int(shape_M[m])], motions[m])
            things.append(ObjectVerdict(*names) if there else ObjectVerdict(NOTHING, NOTHING, NOTHING))
        kind = int(ground.kind_B[b])
        background = BACKGROUNDS[kind] if kind >= 0 else NOTHING
        verdicts.append(Verdict(tuple(things), background, CAMERAS[int(camera_B[b])]))
    return verdicts


@functools.cache
def _shape_templates() -> torch.Tensor:
    """Masks and shadings (len(BLURS), 6, 360 / TURN, 2 * PATCH**2) of each shape, blurred and turned, as by `track`."""
    fields = shape_fields()
    size = fields.shape[-1]
    line = ((torch.arange(size) + 0.5) / size * 2 - 1) * FIELD_REACH
    sharp = (0.5 - fields[:, 0] * 10).clamp(0, 1)
    angle = torch.arange(0, 360, TURN) * (math.pi / 180)
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    step = ((torch.arange(PATCH) + 0.5) * (2 / PATCH) - 1) * PATCH_REACH
    dy, dx = torch.meshgrid(step, step, indexing="ij")
    turned = torch.stack((dx * cos + dy * sin, dy * cos - dx * sin), -1)
    templates = []
    for blur in BLURS:
        spread = torch.softmax(-0.5 * ((line[:, None] - line) / max(blur, 1e-3)).square(), dim=1)
        inside = soft_cover(spread @ sharp @ spread.T)
        area = inside.sum((1, 2))
        centre = torch.stack(((inside.sum(1) * line).sum(1), (inside.sum(2) * line).sum(1)), 1) / area[:, None]
        radius = (area * (2 * FIELD_REACH / size) ** 2 / math.pi).sqrt()
        place = turned * radius[:, None, None, None, None] + centre[:, None, None, None, :]
        grid = (place / FIELD_REACH).flatten(1, 2)
        mask = F.grid_sample(inside[:, None], grid, align_corners=False)[:, 0].unflatten(1, (len(angle), PATCH))
        tone = (place.sum(-1) / -(0.1 + blur)).clamp(-1, 1)
        tone = tone - (tone * mask).sum((-1, -2), keepdim=True) / mask.sum((-1, -2), keepdim=True)
        templates.append(torch.stack((mask, tone * mask * TONE_WEIGHT), 2).flatten(2))
    return torch.stack(templates)


def _match_shapes(pose: Pose) -> tuple[torch.Tensor, torch.Tensor]:
    """The shape (M,) that fits all frames best, at rest or turning evenly, and whether it turns (M,)."""
    device = pose.patch.device
    templates = _shape_templates().to(device).flatten(0, 1)
    kinds, angles, _ = templates.shape
    patch = (pose.patch * torch.tensor([1.0, TONE_WEIGHT], device=device)[:, None, None]).flatten(2)
    error = templates.square().sum(-1) - 2 * (patch @ templates.flatten(0, 1).T).unflatten(-1, (kinds, angles))
    error = error + patch.square().sum(-1)[..., None, None]
    time, start = torch.arange(patch.shape[1], device=device)[:, None], torch.arange(angles, device=device)
    fits = []
    for rate in RATES:
        turned = ((start + rate * time) % angles)[None, :, None].expand_as(error)
        fits.append(error.gather(-1, turned).mean(1).amin(-1))
    fit = torch.stack(fits, 1)  # (M, rates, blurs * shapes)
    fit[:, 0] *= SPIN_GAIN
    kind_M = fit.amin(1).argmin(1)
    return kind_M % len(SHAPES), fit[torch.arange(len(fit)), :, kind_M].argmin(1) > 0


@functools.cache
def _paths(frames: int) -> tuple[tuple[str, ...], torch.Tensor]:
    """The motion names (K,) and the ways (K, T, 2) of a centre that the world knows, about their mean."""
    time = torch.arange(frames, dtype=torch.float32)
    rest = torch.zeros_like(time)
    ways = [("still", rest, rest)]
    for speed in TRAVEL.values():
        ways += [("left", -speed * time, rest), ("right", speed * time, rest)]
        ways += [("up", rest, -speed * time), ("down", rest, speed * time)]
    for rate in (1, -1, 2, -2):
        turns = [time * (rate / CIRCLE) + k * (math.pi / 8) for k in range(16)]
        ways += [("circles", CIRCLE * turn.cos(), CIRCLE * turn.sin()) for turn in turns]
    for period in (24, 16):
        parts = [((time + start) / period) % 1 for start in range(period)]
        ways += [("bounces", rest, -4 * HOP * part * (1 - part)) for part in parts]
    table = torch.stack([torch.stack(way[1:], -1) for way in ways])
    return tuple(way[0] for way in ways), table - table.mean(1, keepdim=True)


def _match_motions(pose: Pose, spins_M: torch.Tensor) -> list[str]:
    """The motion of each object: its nearest path; where that is rest, whether it turns, or its size changes."""
    names, table = _paths(pose.centre.shape[1])
    centre = pose.centre - pose.centre.mean(1, keepdim=True)
    path_M = torch.cdist(centre.flatten(1), table.to(centre.device).flatten(1)).argmin(1)
    size = pose.radius.log()
    third = size.shape[1] // 3
    # In a long clip the growth is over before the end: only the frames that it can take are counted.
    rate_M = (size[:, -third:].mean(1) - size[:, :third].mean(1)) / min(size.shape[1] - third, 16)
    motions = []
    for path, rate, spins in zip(path_M.tolist(), rate_M.tolist(), spins_M.tolist(), strict=True):
        if names[path] != "still":
            motions.append(names[path])
        elif spins:
            motions.append("spins")
        else:
            motions.append("still" if abs(rate) < GROWTH else "grows" if rate > 0 else "shrinks")
    return motions


def _match_camera(share_BTHW: torch.Tensor, mask_BTHW: torch.Tensor) -> torch.Tensor:
    """The camera (B,) whose warp carries the background of a frame best into that of the frames 4 and 8 later."""
    known = slice(0, int(ZOOM_FRAMES) + 1, STRIDE)  # later, a zoom has ended
    share = F.avg_pool2d(share_BTHW[:, known], 3, stride=1, padding=1, count_include_pad=False)
    free = 1 - F.max_pool2d(mask_BTHW[:, known], 5, stride=1, padding=2)
    seen = torch.stack((share * free, free), 2)  # so that what is hidden stays out of every carried pixel
    errors = []
    for gap in (4, 8):
        if share.shape[1] <= gap // STRIDE:
            continue
        before, after = seen[:, : -gap // STRIDE], share[:, gap // STRIDE :]
        free_after = free[:, gap // STRIDE :]
        for warp in _camera_grids(gap, *share.shape[-2:]):
            grid = warp.to(share.device).expand(before.shape[0] * before.shape[1], -1, -1, -1)
            carried = F.grid_sample(before.flatten(0, 1), grid, align_corners=False).unflatten(0, before.shape[:2])
            sure = (carried[:, :, 1] > 0.9) * free_after
            difference = (after - carried[:, :, 0] / carried[:, :, 1].clamp(min=0.1)).square() * sure
            errors.append(difference.sum((1, 2, 3)) / sure.sum((1, 2, 3)).clamp(min=1))
    return torch.stack(errors, 1).unflatten(1, (-1, len(CAMERAS))).sum(1).argmin(1)


def _camera_grids(gap: int, height: int, width: int) -> list[torch.Tensor]:
    """For every camera, where (H, W, 2) each pixel's background was `gap` frames before."""
    x = (torch.arange(width) + 0.5) * (2 / width) - 1
    y = ((torch.arange(height) + 0.5) * (2 / height) - 1)[:, None]
    grids = []
    for camera in CAMERAS:
        shift = PAN * gap * (2 / width) * {"pans left": -1, "pans right": 1}.get(camera, 0)
        scale = ZOOM ** (gap * {"zooms in": -1, "zooms out": 1}.get(camera, 0))
        grids.append(torch.stack(torch.broadcast_tensors(x * scale + shift, y * scale), -1))
    return grids


def accuracy(verdicts: Sequence[Verdict], scenes: Sequence[Scene]) -> dict[str, float]:
    """The share of right answers for every factor, and under "all" of clips where everything is right.

    The two objects of a clip are matched in the order that agrees best.

    Raises:
        ReelmError: not as many verdicts as scenes, or a verdict on another number of objects than its scene has.
    """
    require(len(verdicts) == len(scenes) > 0, "verdicts", "must be one for each scene", (len(verdicts), len(scenes)))
    rows = [_agreement(verdict, scene) for verdict, scene in zip(verdicts, scenes, strict=True)]
    return {factor: sum(row[factor] for row in rows) / len(rows) for factor in rows[0]}


def _agreement(verdict: Verdict, scene: Scene) -> dict[str, float]:
    seen, true = verdict.objects, scene.objects
    require(len(seen) == len(true), "verdicts", "must be on as many objects as the scene has", len(seen))
    matches = [
        {
            factor: sum(getattr(s, factor) == getattr(t, factor) for s, t in zip(order, true, strict=True)) / len(true)
            for factor in ("colour", "shape", "motion")
        }
        for order in itertools.permutations(seen)
    ]
    row = max(matches, key=lambda match: sum(match.values()))
    row["background"] = float(verdict.background == scene.background)
    row["camera"] = float(verdict.camera == scene.camera)
    return row | {"all": float(all(share == 1 for share in row.values()))}
