"""Recognise the factors of a scene, such as colour, shape and motion, in the pixels of a clip.

    verdicts = judge(frames_BTHW3)                      # uint8; one object per clip
    verdicts[0].objects[0].colour, verdicts[0].camera
    accuracy(verdicts, scenes)                          # {"colour": 1.0, ..., "all": 0.99}

Nothing is learned. Each factor is the nearest of all that the renderer can draw: palettes for colour and background,
rotated and shaded templates for shape and spinning, paths for motion, and for the camera the warp that maps the
background of one frame to that of a later one. So it also works on blurred and imperfect clips, such as generated ones.
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
    soft_mask,
    track,
)
from .render import BOUNCE_HEIGHT, CIRCLE_RADIUS, PAN_SPEED, ZOOM_FRAMES, ZOOM_RATE
from .scene import BACKGROUNDS, CAMERAS, COLOURS, PIXELS_PER_FRAME, SHAPES, Scene
from .textures import FIELD_REACH, shape_fields

CHUNK = 4  # clips judged at once: their temporaries stay in the processor's cache
ANGLE_STEP = 5  # degrees between the angles of the templates; a slow spin turns by one step per frame
SPIN_RATES = (0, 1, -1, 2, -2)  # steps of ANGLE_STEP per frame
TONE_WEIGHT = 0.5  # the weight of the shading, relative to that of the mask, when shapes are compared
BLURS = (0.0, 0.2)  # in radii; blurred templates match shapes whose corners a tokenizer has rounded
SPIN_GAIN = 0.97  # the factor on the error without rotation: a spin must fit this much better
MIN_GROWTH = 0.007  # change of the log radius per frame; the slowest growth of a scene is 0.014
STRIDE = 2  # the camera is measured from every second frame
NOTHING = "none"


@dataclass(frozen=True)
class ObjectVerdict:
    """The recognised factors of one object; all are "none" if there is no object."""

    colour: str
    shape: str
    motion: str


@dataclass(frozen=True)
class Verdict:
    """The recognised factors of one clip; the background is "none" if it resembles none of `BACKGROUNDS`."""

    objects: tuple[ObjectVerdict, ...]
    background: str
    camera: str


@torch.no_grad()
def judge(frames_BTHW3: torch.Tensor, *, objects: int = 1) -> list[Verdict]:
    """Return the verdicts on clips.

    A clip must start with the first frame of its scene, because growth and zooms end after some seconds.

    Args:
        frames_BTHW3: The clips, uint8, at least 5 frames of at least 32 x 32 pixels, at 8 frames per second.
        objects: The number of objects in each clip, 1 or 2; the more visible one is first in the verdict.

    Raises:
        ReelmError: The frames have another shape or dtype, or `objects` another value.
    """
    shape = tuple(frames_BTHW3.shape)
    require(frames_BTHW3.dtype == torch.uint8, "frames", "must be uint8", frames_BTHW3.dtype)
    require(len(shape) == 5 and shape[-1] == 3, "frames", "must have the shape (B, T, H, W, 3)", shape)
    require(shape[1] >= 5 and min(shape[2:4]) >= 32, "frames", "must be at least 5 of at least 32 x 32 pixels", shape)
    require(objects in (1, 2), "objects", "must be 1 or 2", objects)
    return [verdict for chunk in frames_BTHW3.split(CHUNK) for verdict in _judge_chunk(chunk, objects)]


def _judge_chunk(frames: torch.Tensor, count: int) -> list[Verdict]:
    video = normalise(frames)
    background = measure_background(video)
    found = find_objects(video, background, count=count)
    pose = track(found.mask.flatten(0, 1), found.tone.flatten(0, 1))
    shape_M, spins_M = _match_shapes(pose)
    motions = _match_motions(pose, spins_M)
    camera_B = _match_camera(background.share_BTHW, found.mask.amax(1))
    verdicts = []
    for b in range(len(frames)):
        objects = []
        for n in range(count):
            m = b * count + n
            exists = float(found.evidence_BX[b, n]) >= MIN_EVIDENCE
            factors = (COLOURS[int(found.colour_BX[b, n])], SHAPES[int(shape_M[m])], motions[m])
            objects.append(ObjectVerdict(*factors) if exists else ObjectVerdict(NOTHING, NOTHING, NOTHING))
        index = int(background.index_B[b])
        name = BACKGROUNDS[index] if index >= 0 else NOTHING
        verdicts.append(Verdict(tuple(objects), name, CAMERAS[int(camera_B[b])]))
    return verdicts


@functools.cache
def _shape_templates() -> torch.Tensor:
    """Return masks and shadings of each shape, blurred and rotated, (len(BLURS), 6, 360 / ANGLE_STEP, 2 * PATCH**2).

    They are centred and scaled like the patches of `track`.
    """
    fields = shape_fields()
    size = fields.shape[-1]
    line = ((torch.arange(size) + 0.5) / size * 2 - 1) * FIELD_REACH
    sharp = (0.5 - fields[:, 0] * 10).clamp(0, 1)
    angle = torch.arange(0, 360, ANGLE_STEP) * (math.pi / 180)
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    step = ((torch.arange(PATCH) + 0.5) * (2 / PATCH) - 1) * PATCH_REACH
    dy, dx = torch.meshgrid(step, step, indexing="ij")
    rotated = torch.stack((dx * cos + dy * sin, dy * cos - dx * sin), -1)
    templates = []
    for blur in BLURS:
        spread = torch.softmax(-0.5 * ((line[:, None] - line) / max(blur, 1e-3)).square(), dim=1)
        inside = soft_mask(spread @ sharp @ spread.T)
        area = inside.sum((1, 2))
        centre = torch.stack(((inside.sum(1) * line).sum(1), (inside.sum(2) * line).sum(1)), 1) / area[:, None]
        radius = (area * (2 * FIELD_REACH / size) ** 2 / math.pi).sqrt()
        position = rotated * radius[:, None, None, None, None] + centre[:, None, None, None, :]
        grid = (position / FIELD_REACH).flatten(1, 2)
        mask = F.grid_sample(inside[:, None], grid, align_corners=False)[:, 0].unflatten(1, (len(angle), PATCH))
        tone = (position.sum(-1) / -(0.1 + blur)).clamp(-1, 1)
        tone = tone - (tone * mask).sum((-1, -2), keepdim=True) / mask.sum((-1, -2), keepdim=True)
        templates.append(torch.stack((mask, tone * mask * TONE_WEIGHT), 2).flatten(2))
    return torch.stack(templates)


def _match_shapes(pose: Pose) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the shape (M,) that fits all frames best, at rest or spinning evenly, and whether it spins (M,)."""
    device = pose.patch.device
    templates = _shape_templates().to(device).flatten(0, 1)
    shapes, angles, _ = templates.shape  # each blur of a shape counts as one
    patch = (pose.patch * torch.tensor([1.0, TONE_WEIGHT], device=device)[:, None, None]).flatten(2)
    error = templates.square().sum(-1) - 2 * (patch @ templates.flatten(0, 1).T).unflatten(-1, (shapes, angles))
    error = error + patch.square().sum(-1)[..., None, None]
    time, start = torch.arange(patch.shape[1], device=device)[:, None], torch.arange(angles, device=device)
    errors = []
    for rate in SPIN_RATES:
        rotating = ((start + rate * time) % angles)[None, :, None].expand_as(error)
        errors.append(error.gather(-1, rotating).mean(1).amin(-1))
    errors_MXY = torch.stack(errors, 1)  # (M, rates, blurs * shapes)
    errors_MXY[:, 0] *= SPIN_GAIN
    best_M = errors_MXY.amin(1).argmin(1)
    return best_M % len(SHAPES), errors_MXY[torch.arange(len(errors_MXY)), :, best_M].argmin(1) > 0


@functools.cache
def _path_templates(frames: int) -> tuple[tuple[str, ...], torch.Tensor]:
    """Return the motion (K,) and the centres (K, T, 2), relative to their mean, of every path that a scene can have."""
    time = torch.arange(frames, dtype=torch.float32)
    rest = torch.zeros_like(time)
    paths = [("still", rest, rest)]
    for speed in PIXELS_PER_FRAME.values():
        paths += [("left", -speed * time, rest), ("right", speed * time, rest)]
        paths += [("up", rest, -speed * time), ("down", rest, speed * time)]
    for rate in (1, -1, 2, -2):
        angles = [time * (rate / CIRCLE_RADIUS) + k * (math.pi / 8) for k in range(16)]
        paths += [("circles", CIRCLE_RADIUS * angle.cos(), CIRCLE_RADIUS * angle.sin()) for angle in angles]
    for period in (24, 16):
        phases = [((time + start) / period) % 1 for start in range(period)]
        paths += [("bounces", rest, -4 * BOUNCE_HEIGHT * phase * (1 - phase)) for phase in phases]
    table = torch.stack([torch.stack(path[1:], -1) for path in paths])
    return tuple(path[0] for path in paths), table - table.mean(1, keepdim=True)


def _match_motions(pose: Pose, spins_M: torch.Tensor) -> list[str]:
    """Return the motion of each object: that of the nearest path, or for a path at rest its spin or change of size."""
    names, table = _path_templates(pose.centre.shape[1])
    centre = pose.centre - pose.centre.mean(1, keepdim=True)
    path_M = torch.cdist(centre.flatten(1), table.to(centre.device).flatten(1)).argmin(1)
    size = pose.radius.log()
    third = size.shape[1] // 3
    # In a long clip growth ends before the last frame, so the change is divided by at most its duration.
    rate_M = (size[:, -third:].mean(1) - size[:, :third].mean(1)) / min(size.shape[1] - third, 16)
    motions = []
    for path, rate, spins in zip(path_M.tolist(), rate_M.tolist(), spins_M.tolist(), strict=True):
        if names[path] != "still":
            motions.append(names[path])
        elif spins:
            motions.append("spins")
        else:
            motions.append("still" if abs(rate) < MIN_GROWTH else "grows" if rate > 0 else "shrinks")
    return motions


def _match_camera(share_BTHW: torch.Tensor, mask_BTHW: torch.Tensor) -> torch.Tensor:
    """Return the camera (B,) whose warp best maps the background of a frame to that of the frames 4 and 8 later."""
    frames = slice(0, int(ZOOM_FRAMES) + 1, STRIDE)  # a zoom ends afterwards
    share = F.avg_pool2d(share_BTHW[:, frames], 3, stride=1, padding=1, count_include_pad=False)
    visible = 1 - F.max_pool2d(mask_BTHW[:, frames], 5, stride=1, padding=2)
    # Weighted by visibility, so that pixels behind objects do not contribute to a warped pixel.
    weighted = torch.stack((share * visible, visible), 2)
    errors = []
    for gap in (4, 8):
        if share.shape[1] <= gap // STRIDE:
            continue
        before, after = weighted[:, : -gap // STRIDE], share[:, gap // STRIDE :]
        visible_after = visible[:, gap // STRIDE :]
        for warp in _camera_grids(gap, *share.shape[-2:]):
            grid = warp.to(share.device).expand(before.shape[0] * before.shape[1], -1, -1, -1)
            warped = F.grid_sample(before.flatten(0, 1), grid, align_corners=False).unflatten(0, before.shape[:2])
            weight = (warped[:, :, 1] > 0.9) * visible_after
            difference = (after - warped[:, :, 0] / warped[:, :, 1].clamp(min=0.1)).square() * weight
            errors.append(difference.sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp(min=1))
    return torch.stack(errors, 1).unflatten(1, (-1, len(CAMERAS))).sum(1).argmin(1)


def _camera_grids(gap: int, height: int, width: int) -> list[torch.Tensor]:
    """Return for every camera the position (H, W, 2) that each pixel's background had `gap` frames before."""
    x = (torch.arange(width) + 0.5) * (2 / width) - 1
    y = ((torch.arange(height) + 0.5) * (2 / height) - 1)[:, None]
    grids = []
    for camera in CAMERAS:
        shift = PAN_SPEED * gap * (2 / width) * {"pans left": -1, "pans right": 1}.get(camera, 0)
        scale = ZOOM_RATE ** (gap * {"zooms in": -1, "zooms out": 1}.get(camera, 0))
        grids.append(torch.stack(torch.broadcast_tensors(x * scale + shift, y * scale), -1))
    return grids


def accuracy(verdicts: Sequence[Verdict], scenes: Sequence[Scene]) -> dict[str, float]:
    """Return the share of correct verdicts by factor, and under "all" the share of clips with all factors correct.

    The two objects of a clip are matched to those of its scene in the order that agrees best.

    Raises:
        ReelmError: The numbers of verdicts and scenes differ, or those of the objects in a verdict and its scene.
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
