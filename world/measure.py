"""Measure the pixels of rendered or generated clips: the background, and the position and size of each object.

    video = normalise(frames_BTHW3)                     # floats, the shorter side 64 pixels
    background = measure_background(video)              # its palette, and the distance of every pixel to it
    objects = find_objects(video, background, count=1)  # colours, soft masks, tones
    pose = track(objects.mask, objects.tone)            # centres, radii and aligned patches of the masks

Nothing is learned: palettes and shapes are those of the renderer. A background's colours lie on a line between two
colours, an object has a lit and a shaded tone of one colour, and a pixel belongs to whichever of these is nearest.
"""

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .render import GROW_TO
from .scene import BACKGROUNDS, RADIUS
from .textures import SHADE, SKY_BOTTOM, SKY_TOP, background_tiles, object_colours

SIDE = 64  # the shorter side of the picture in whose pixels the lengths of the scenes are given
PATCH, PATCH_REACH = 24, 2.0  # samples along a patch, and half its width in radii of a disc with the object's area
MAX_DISTANCE = 60.0  # RGB distance from which on two colours count as unrelated
MIN_CONTRAST = 0.2  # the least contrast of a background, relative to that of its tile
MAX_REACH = 1.4 * GROW_TO * RADIUS["big"]  # pixels: no object extends farther from its centre
MIN_EVIDENCE = 5.0  # pixels per frame that must have an object's colour, as must all their neighbours


@dataclass(frozen=True)
class Background:
    """The measured backgrounds of clips.

    Attributes:
        index_B: The index into `BACKGROUNDS`, or -1 for none of them.
        share_BTHW: The position of each pixel on the line from the first (0) to the second (1) colour of the palette.
        distance_BTHW: The RGB distance of each pixel to that line.
    """

    index_B: torch.Tensor
    share_BTHW: torch.Tensor
    distance_BTHW: torch.Tensor


@dataclass(frozen=True)
class Objects:
    """The objects that were found in clips, the most visible first; N is the number of objects per clip.

    Attributes:
        colour_BX: The index into `COLOURS` of each object.
        evidence_BX: The number of pixels per frame that support each object.
        mask: The share of each pixel that the object covers, (B, N, T, H, W) in [0, 1].
        tone: The brightness of each pixel relative to the object's colour, (B, N, T, H, W): 1 lit, `SHADE` shaded.
    """

    colour_BX: torch.Tensor
    evidence_BX: torch.Tensor
    mask: torch.Tensor
    tone: torch.Tensor


@dataclass(frozen=True)
class Pose:
    """The poses of M objects in T frames.

    Attributes:
        centre: The centres (M, T, 2) as x, y in pixels.
        radius: The radii (M, T) in pixels, of discs with the areas of the objects.
        patch: The surroundings of each object, scaled by its radius, (M, T, 2, PATCH, PATCH): mask and centred tone.
    """

    centre: torch.Tensor
    radius: torch.Tensor
    patch: torch.Tensor


def normalise(frames_BTHW3: torch.Tensor) -> torch.Tensor:
    """Convert (B, T, H, W, 3) uint8 to (B, T, 3, H, W) floats in [0, 255] with a shorter side of 64 pixels."""
    video = frames_BTHW3.movedim(-1, 2).float().contiguous()
    height, width = video.shape[-2:]
    short = min(height, width)
    if short == SIDE:
        return video
    size = (round(height * SIDE / short), round(width * SIDE / short))
    resized = F.interpolate(video.flatten(0, 1), size, mode="area" if short > SIDE else "bilinear")
    return resized.unflatten(0, video.shape[:2])


def _background_palettes(height: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first colour of each background in each row, (6, 3, H, 1), and the second minus it, (6, 3, 1, 1)."""
    tiles = background_tiles().flatten(2)  # (6, 3, texels)
    # A tile mixes two colours, which are those of its darkest and its brightest texel.
    light = tiles.sum(1)
    low, high = (tiles[torch.arange(len(tiles)), :, index] for index in (light.argmin(1), light.argmax(1)))
    first = low[:, :, None, None].repeat(1, 1, height, 1)
    top, bottom = torch.tensor(SKY_TOP, dtype=torch.float32), torch.tensor(SKY_BOTTOM, dtype=torch.float32)
    sky = BACKGROUNDS.index("sunset")
    first[sky] += torch.lerp(top[:, None, None], bottom[:, None, None], torch.linspace(0, 1, height)[:, None])
    return first, (high - low)[:, :, None, None]


def _project(video: torch.Tensor, first: torch.Tensor, step: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Project colours onto the line from `first` (0) to `first + step` (1).

    Returns:
        The unbounded position on the line, and the distance to the segment between its ends.
    """
    offset = video - first
    length = step.square().sum(-3)
    share = (offset * step).sum(-3) / length
    nearest = share.clamp(0, 1)
    square = offset.square().sum(-3) + length * nearest * (nearest - 2 * share)
    return share, square.clamp(min=0).sqrt()


def measure_background(video_BT3HW: torch.Tensor) -> Background:
    """Return the background whose palette is nearest to the pixels.

    Its index is -1 if most pixels are far from every palette, or if they lack the contrast of the background's pattern.
    """
    first, step = (table.to(video_BT3HW.device) for table in _background_palettes(video_BT3HW.shape[-2]))
    low, high, spread = _tile_statistics().to(video_BT3HW.device)
    sample = video_BT3HW[:, ::4, :, ::2, ::2]
    lines = [_project(sample, first[index, :, ::2], step[index]) for index in range(len(first))]
    share, distance = (torch.stack(values, 1).flatten(2) for values in zip(*lines, strict=True))
    # The median must lie between the quartiles of the tile: night's line from dark to bright passes through all greys,
    # so distances alone would favour it.
    median = share.median(-1).values
    median_error = (median - median.clamp(low, high)).abs() * step.norm(dim=1)[:, 0, 0]
    index_B = (distance.clamp(max=MAX_DISTANCE).mean(-1) + median_error).argmin(1)

    clip = torch.arange(len(index_B), device=index_B.device)
    share_BS, near_BS = share[clip, index_B], distance[clip, index_B] < MAX_DISTANCE / 2
    count_B = near_BS.sum(-1).clamp(min=1)
    mean_B = (share_BS * near_BS).sum(-1) / count_B
    spread_B = (((share_BS - mean_B[:, None]).square() * near_BS).sum(-1) / count_B).sqrt()
    found_B = (near_BS.float().mean(-1) > 0.5) & (spread_B > MIN_CONTRAST * spread[index_B])
    share, distance = _project(video_BT3HW, first[index_B][:, None], step[index_B][:, None])
    return Background(torch.where(found_B, index_B, -1), share.clamp(-0.5, 1.5), distance)


@functools.cache
def _tile_statistics() -> torch.Tensor:
    """Return statistics of the share of the second colour in each background's tile, (3, 6).

    They are the lower quartile, the upper quartile and the standard deviation.
    """
    light = background_tiles().sum(1).flatten(1)
    low, high = light.amin(1, keepdim=True), light.amax(1, keepdim=True)
    share = (light - low) / (high - low)
    return torch.cat((torch.quantile(share, torch.tensor([0.25, 0.75]), dim=1), share.std(1)[None]))


def _compare_colour(video: torch.Tensor, colour: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each pixel's unbounded tone of a colour (..., 3), and its distance to the nearer of the two tones.

    The tones are 1 (lit) and `SHADE` (shaded).
    """
    colour = colour[..., None, None]
    product = (video * colour).sum(-3)
    length = colour.square().sum(-3)
    tone = product / length
    # Only the two tones count, not those between them: a half-shaded white would be too close to snow.
    nearest = torch.where(tone > (1 + SHADE) / 2, 1.0, SHADE)
    square = video.square().sum(-3) - 2 * nearest * product + nearest.square() * length
    return tone, square.clamp(min=0).sqrt()


def find_objects(video_BT3HW: torch.Tensor, background: Background, *, count: int) -> Objects:
    """Return the objects of the `count` most frequent object colours, the most visible first.

    Two objects never have the same colour.
    """
    palette = object_colours().to(video_BT3HW.device)
    evidence = _colour_evidence(video_BT3HW[:, ::4], background.distance_BTHW[:, ::4], palette)
    evidence_BX, colour_BX = evidence.topk(count, dim=1)
    matches = [_compare_colour(video_BT3HW, palette[colour_BX[:, n], None]) for n in range(count)]
    masks = []
    for n, (_, distance) in enumerate(matches):
        other_distance = background.distance_BTHW
        for other in matches[:n] + matches[n + 1 :]:
            other_distance = torch.minimum(other_distance, other[1])
        # A pixel on a border is a mixture, and its distances to both sides give the shares.
        masks.append(soft_mask(other_distance / (other_distance + distance).clamp(min=1e-3)))
    return Objects(colour_BX, evidence_BX, torch.stack(masks, 1), torch.stack([tone for tone, _ in matches], 1))


def soft_mask(share: torch.Tensor) -> torch.Tensor:
    """Return a mask in [0, 1] from an object's share of each pixel; small shares, which are noise, become 0."""
    return ((share - 0.25) * 2).clamp(0, 1)


def _colour_evidence(video: torch.Tensor, background_distance: torch.Tensor, palette: torch.Tensor) -> torch.Tensor:
    """Return the number of pixels per frame that are nearest to each colour, as their four neighbours are, (B, 8).

    A pixel's weight falls with the largest of these five distances to the colour.
    """
    distance = torch.stack([_compare_colour(video, colour)[1] for colour in palette], 2)  # (B, T, 8, H, W)
    nearest = torch.minimum(distance.amin(2), background_distance)[:, :, None]
    near = torch.where(distance <= nearest, (1 - distance / MAX_DISTANCE).clamp(min=0), 0)
    inside = torch.minimum(near[..., :-2, 1:-1], near[..., 2:, 1:-1])
    inside = torch.minimum(inside, torch.minimum(near[..., 1:-1, :-2], near[..., 1:-1, 2:]))
    return torch.minimum(inside, near[..., 1:-1, 1:-1]).sum((-1, -2)).mean(1)


def _wrap(difference: torch.Tensor, span: int) -> torch.Tensor:
    return (difference + span / 2) % span - span / 2


def track(mask_MTHW: torch.Tensor, tone_MTHW: torch.Tensor) -> Pose:
    """Return the poses of objects in every frame of a picture whose opposite borders are connected."""
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
    # Relative to the mean and in units of the step from light to shade: the brightness of the object does not matter.
    centred_tone = ((tone_MTHW - mean_tone) * (2 / (1 - SHADE))).clamp(-1.5, 1.5) * part
    patch = _sample_patches(torch.stack((part, centred_tone), 2), x_MT, y_MT, radius_MT)
    centre = torch.stack((_unwrap(x_MT, width), _unwrap(y_MT, height)), -1)
    return Pose(centre, radius_MT, patch)


def _circular_mean(weight: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    span = len(position)
    angle = position * (2 * torch.pi / span)
    return torch.atan2((weight * angle.sin()).sum(-1), (weight * angle.cos()).sum(-1)) * (span / (2 * torch.pi))


def _unwrap(position_MT: torch.Tensor, span: int) -> torch.Tensor:
    steps = _wrap(position_MT.diff(dim=1), span)
    return position_MT[:, :1] + F.pad(steps.cumsum(1), (1, 0))


def _sample_patches(
    image: torch.Tensor, x_MT: torch.Tensor, y_MT: torch.Tensor, radius_MT: torch.Tensor
) -> torch.Tensor:
    """Sample a patch around each centre, in proportion to the radius: (M, T, C, H, W) to (M, T, C, PATCH, PATCH)."""
    height, width = image.shape[-2:]
    line = ((torch.arange(PATCH, device=image.device) + 0.5) * (2 / PATCH) - 1) * PATCH_REACH
    u = (x_MT[..., None] + line * radius_MT[..., None]) % width
    v = (y_MT[..., None] + line * radius_MT[..., None]) % height
    u, v = (u + 0.5) * (2 / (width + 1)) - 1, (v + 0.5) * (2 / (height + 1)) - 1
    grid = torch.stack(torch.broadcast_tensors(u[..., None, :], v[..., None]), -1)
    # Repeat the first row and column at the end, because a patch may cross the borders.
    padded = F.pad(image.flatten(0, 1), (0, 1, 0, 1), mode="circular")
    return F.grid_sample(padded, grid.flatten(0, 1), align_corners=False).unflatten(0, image.shape[:2])
