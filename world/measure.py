"""Measurements in the pixels of a clip of the world: its background, and the place, size and turn of each object.

    video = normalise(frames_BTHW3)                     # floats, the shorter side 64 pixels
    ground = measure_background(video)                  # which palette, and how far every pixel is from it
    objects = find_objects(video, ground, count=1)      # colours, soft masks, tones
    pose = track(objects.mask, objects.tone)            # centres, radii and patches of masks that lie on each other

Nothing is learned: palettes and shapes are the renderer's own. A background is a line between two colours, the lit and
the shaded half of an object are the ends of another, and a pixel belongs to what it is nearest to.
"""

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .render import GROW_TO
from .scene import BACKGROUNDS, RADIUS
from .textures import SHADE, SKY_BOTTOM, SKY_TOP, background_tiles, object_colours

SIDE = 64  # lengths of the world are in pixels of a picture with this shorter side
PATCH, PATCH_REACH = 24, 2.0  # samples along a patch, and its half width in radii of a disc of the object's area
FAR = 60.0  # RGB distance at which a colour is simply another one
FLAT = 0.2  # of a tile's contrast: a background with less of it is not that background
MAX_REACH = 1.4 * GROW_TO * RADIUS["big"]  # pixels: no object extends farther from its centre
MIN_EVIDENCE = 5.0  # pixels a frame that have an object's colour with all their neighbours, for it to be there


@dataclass(frozen=True)
class Ground:
    """The background: its number (B,), its pixels' share of the palette's second colour, and their distance to it."""

    kind_B: torch.Tensor
    share_BTHW: torch.Tensor
    distance_BTHW: torch.Tensor


@dataclass(frozen=True)
class Objects:
    """Colour numbers, evidence (pixels a frame), masks in [0, 1] and tones (1 lit, SHADE shaded) (B, N, T, H, W)."""

    colour_BX: torch.Tensor
    evidence_BX: torch.Tensor
    mask: torch.Tensor
    tone: torch.Tensor


@dataclass(frozen=True)
class Pose:
    """Centres (M, T, 2) as x, y and radii (M, T) in pixels; patches (M, T, 2, PATCH, PATCH): mask and centred tone."""

    centre: torch.Tensor
    radius: torch.Tensor
    patch: torch.Tensor


def normalise(frames_BTHW3: torch.Tensor) -> torch.Tensor:
    """(B, T, H, W, 3) uint8 to (B, T, 3, H, W) floats in [0, 255], resized so that the shorter side has 64 pixels."""
    video = frames_BTHW3.movedim(-1, 2).float().contiguous()
    height, width = video.shape[-2:]
    short = min(height, width)
    if short == SIDE:
        return video
    size = (round(height * SIDE / short), round(width * SIDE / short))
    resized = F.interpolate(video.flatten(0, 1), size, mode="area" if short > SIDE else "bilinear")
    return resized.unflatten(0, video.shape[:2])


def _background_palettes(height: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Per background and row: the first colour (6, 3, H, 1), and the way to the second one (6, 3, 1, 1)."""
    tiles = background_tiles().flatten(2)  # (6, 3, texels)
    # A tile mixes two colours: its darkest and its brightest texel are the ends.
    light = tiles.sum(1)
    low, high = (tiles[torch.arange(len(tiles)), :, index] for index in (light.argmin(1), light.argmax(1)))
    first = low[:, :, None, None].repeat(1, 1, height, 1)
    top, bottom = torch.tensor(SKY_TOP, dtype=torch.float32), torch.tensor(SKY_BOTTOM, dtype=torch.float32)
    sky = BACKGROUNDS.index("sunset")
    first[sky] += torch.lerp(top[:, None, None], bottom[:, None, None], torch.linspace(0, 1, height)[:, None])
    return first, (high - low)[:, :, None, None]


def _to_line(video: torch.Tensor, first: torch.Tensor, way: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How far from `first` (0) to `first + way` (1) each colour lies, unbounded, and its distance to that stretch."""
    offset = video - first
    length = way.square().sum(-3)
    share = (offset * way).sum(-3) / length
    nearest = share.clamp(0, 1)
    square = offset.square().sum(-3) + length * nearest * (nearest - 2 * share)
    return share, square.clamp(min=0).sqrt()


def measure_background(video_BT3HW: torch.Tensor) -> Ground:
    """The background whose palette is nearest to the pixels; -1 where they are not near to any, or lack its pattern."""
    first, way = (table.to(video_BT3HW.device) for table in _background_palettes(video_BT3HW.shape[-2]))
    low, high, spread = _tile_statistics().to(video_BT3HW.device)
    sample = video_BT3HW[:, ::4, :, ::2, ::2]
    lines = [_to_line(sample, first[kind, :, ::2], way[kind]) for kind in range(len(first))]
    share, distance = (torch.stack(values, 1).flatten(2) for values in zip(*lines, strict=True))
    # The median pixel must lie where half of the tile's texels do: night's line from dark to bright passes all greys.
    median = share.median(-1).values
    astray = (median - median.clamp(low, high)).abs() * way.norm(dim=1)[:, 0, 0]
    kind_B = (distance.clamp(max=FAR).mean(-1) + astray).argmin(1)

    clip = torch.arange(len(kind_B), device=kind_B.device)
    share_BS, near_BS = share[clip, kind_B], distance[clip, kind_B] < FAR / 2
    count_B = near_BS.sum(-1).clamp(min=1)
    mean_B = (share_BS * near_BS).sum(-1) / count_B
    spread_B = (((share_BS - mean_B[:, None]).square() * near_BS).sum(-1) / count_B).sqrt()
    known_B = (near_BS.float().mean(-1) > 0.5) & (spread_B > FLAT * spread[kind_B])
    share, to_ground = _to_line(video_BT3HW, first[kind_B][:, None], way[kind_B][:, None])
    return Ground(torch.where(known_B, kind_B, -1), share.clamp(-0.5, 1.5), to_ground)


@functools.cache
def _tile_statistics() -> torch.Tensor:
    """(3, 6): quartiles and standard deviation of the share of the second colour in every background's tile."""
    light = background_tiles().sum(1).flatten(1)
    low, high = light.amin(1, keepdim=True), light.amax(1, keepdim=True)
    share = (light - low) / (high - low)
    return torch.cat((torch.quantile(share, torch.tensor([0.25, 0.75]), dim=1), share.std(1)[None]))


def _to_colour(video: torch.Tensor, colour: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Tone (1 lit, SHADE shaded; unbounded) and distance to the tones of a colour (..., 3)."""
    colour = colour[..., None, None]
    product = (video * colour).sum(-3)
    length = colour.square().sum(-3)
    tone = product / length
    # Either tone, not those between them: a shaded white would come too near to snow.
    nearest = torch.where(tone > (1 + SHADE) / 2, 1.0, SHADE)
    square = video.square().sum(-3) - 2 * nearest * product + nearest.square() * length
    return tone, square.clamp(min=0).sqrt()


def find_objects(video_BT3HW: torch.Tensor, ground: Ground, *, count: int) -> Objects:
    """The `count` colours that most pixels have, the most visible first, and their masks; no two share a colour."""
    palette = object_colours().to(video_BT3HW.device)
    evidence = _colour_evidence(video_BT3HW[:, ::4], ground.distance_BTHW[:, ::4], palette)
    evidence_BX, colour_BX = evidence.topk(count, dim=1)
    chosen = [_to_colour(video_BT3HW, palette[colour_BX[:, n], None]) for n in range(count)]
    covers = []
    for n, (_, distance) in enumerate(chosen):
        other = ground.distance_BTHW
        for rival in chosen[:n] + chosen[n + 1 :]:
            other = torch.minimum(other, rival[1])
        # A pixel on a border is a mixture: its distances to both sides tell the parts.
        covers.append(soft_cover(other / (other + distance).clamp(min=1e-3)))
    return Objects(colour_BX, evidence_BX, torch.stack(covers, 1), torch.stack([tone for tone, _ in chosen], 1))


def soft_cover(share: torch.Tensor) -> torch.Tensor:
    """A mask in [0, 1] from the object's share of each pixel, without the small shares that are noise."""
    return ((share - 0.25) * 2).clamp(0, 1)


def _colour_evidence(video: torch.Tensor, to_ground: torch.Tensor, palette: torch.Tensor) -> torch.Tensor:
    """(B, 8): pixels a frame that are nearest to a colour, weighted by how near, where all their neighbours are too."""
    distance = torch.stack([_to_colour(video, colour)[1] for colour in palette], 2)  # (B, T, 8, H, W)
    nearest = torch.minimum(distance.amin(2), to_ground)[:, :, None]
    near = torch.where(distance <= nearest, (1 - distance / FAR).clamp(min=0), 0)
    inside = torch.minimum(near[..., :-2, 1:-1], near[..., 2:, 1:-1])
    inside = torch.minimum(inside, torch.minimum(near[..., 1:-1, :-2], near[..., 1:-1, 2:]))
    return torch.minimum(inside, near[..., 1:-1, 1:-1]).sum((-1, -2)).mean(1)


def _wrap(difference: torch.Tensor, span: int) -> torch.Tensor:
    return (difference + span / 2) % span - span / 2


def track(mask_MTHW: torch.Tensor, tone_MTHW: torch.Tensor) -> Pose:
    """Follow objects through the frames of a picture whose opposite borders touch."""
    height, width = mask_MTHW.shape[-2:]
    device = mask_MTHW.device
    x_W, y_H = torch.arange(width, device=device).float(), torch.arange(height, device=device).float()
    x_MT, y_MT = _circular_mean(mask_MTHW.sum(-2), x_W), _circular_mean(mask_MTHW.sum(-1), y_H)
    reach_MT = torch.full_like(x_MT, MAX_REACH)
    for _ in range(3):
        dx, dy = _wrap(x_W - x_MT[..., None], width), _wrap(y_H - y_MT[..., None], height)
        near = dx.square()[..., None, :] + dy.square()[..., None] < reach_MT.square()[..., None, None]
        part = mask_MTHW * near
        columns, rows = part.sum(-2), part.sum(-1)
        area_MT = rows.sum(-1).clamp(min=1.0)
        x_MT = x_MT + (columns * dx).sum(-1) / area_MT
        y_MT = y_MT + (rows * dy).sum(-1) / area_MT
        radius_MT = (area_MT / torch.pi).sqrt()
        reach_MT = (PATCH_REACH * radius_MT).clamp(8, MAX_REACH)
    mean_tone = ((part * tone_MTHW).sum((-1, -2)) / area_MT)[..., None, None]
    # In units of the step between light and shade, so that a wrong brightness of the object does not count.
    turned = ((tone_MTHW - mean_tone) * (2 / (1 - SHADE))).clamp(-1.5, 1.5) * part
    patch = _cut(torch.stack((part, turned), 2), x_MT, y_MT, radius_MT)
    centre = torch.stack((_unwrap(x_MT, width), _unwrap(y_MT, height)), -1)
    return Pose(centre, radius_MT, patch)


def _circular_mean(weight: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    span = len(place)
    angle = place * (2 * torch.pi / span)
    return torch.atan2((weight * angle.sin()).sum(-1), (weight * angle.cos()).sum(-1)) * (span / (2 * torch.pi))


def _unwrap(place_MT: torch.Tensor, span: int) -> torch.Tensor:
    steps = _wrap(place_MT.diff(dim=1), span)
    return place_MT[:, :1] + F.pad(steps.cumsum(1), (1, 0))


def _cut(image: torch.Tensor, x_MT: torch.Tensor, y_MT: torch.Tensor, radius_MT: torch.Tensor) -> torch.Tensor:
    """(M, T, C, PATCH, PATCH) around each centre from (M, T, C, H, W), in proportion to the radius."""
    height, width = image.shape[-2:]
    line = ((torch.arange(PATCH, device=image.device) + 0.5) * (2 / PATCH) - 1) * PATCH_REACH
    u = (x_MT[..., None] + line * radius_MT[..., None]) % width
    v = (y_MT[..., None] + line * radius_MT[..., None]) % height
    u, v = (u + 0.5) * (2 / (width + 1)) - 1, (v + 0.5) * (2 / (height + 1)) - 1
    grid = torch.stack(torch.broadcast_tensors(u[..., None, :], v[..., None]), -1)
    # The first row and column again at the end: a patch may lie across the borders.
    closed = F.pad(image.flatten(0, 1), (0, 1, 0, 1), mode="circular")
    return F.grid_sample(closed, grid.flatten(0, 1), align_corners=False).unflatten(0, image.shape[:2])
