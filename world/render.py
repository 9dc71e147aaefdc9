"""Render scenes to clips, many at once, on the CPU or a GPU.

    clips = render([sample_scene(7, i) for i in range(64)], num_frames=17)      # (64, 17, 64, 64, 3) uint8

An object that leaves the picture in a straight line enters it again on the opposite side. Growing, shrinking and
zooming end after some seconds; all other motion continues. The motion of an object is relative to the picture, and the
camera moves only the background.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ..core.errors import require
from .scene import BACKGROUNDS, CAMERAS, COLOURS, RADIUS, SHAPES, Scene, velocity
from .textures import (
    FIELD_REACH,
    SHADE,
    SKY_BOTTOM,
    SKY_TOP,
    TEXELS,
    TILE,
    background_tiles,
    object_colours,
    shape_fields,
)

CHUNK = 16  # clips rendered at once: their temporaries stay in the processor's cache
PAN_SPEED = 2.0  # pixels per frame
ZOOM_RATE, ZOOM_FRAMES = 1.02, 24.0  # the factor per frame, and the number of frames after which a zoom ends
GROW_FROM, GROW_TO = 0.8, 1.35  # relative to the nominal radius
BOUNCE_HEIGHT, CIRCLE_RADIUS = 12.0, 8.0  # pixels


def render(
    scenes: Sequence[Scene],
    num_frames: int,
    *,
    height: int = 64,
    width: int = 64,
    first_frame: int = 0,
    device: str | torch.device = "cpu",
) -> torch.Tensor:
    """Render one clip of each scene, at 8 frames per second.

    Args:
        scenes: The scenes to render.
        num_frames: The number of frames of each clip.
        height: The height of a clip in pixels.
        width: The width of a clip in pixels.
        first_frame: The index of the first frame in its scene.
        device: The device of the result.

    Returns:
        The clips (B, T, H, W, 3) uint8.

    Raises:
        ReelmError: There are no frames, or a side is shorter than 16 pixels.
    """
    require(num_frames >= 1, "num_frames", "must be at least 1", num_frames)
    require(min(height, width) >= 16, "height, width", "must be at least 16", (height, width))
    if not scenes:
        return torch.empty(0, num_frames, height, width, 3, dtype=torch.uint8, device=device)
    time_T = torch.arange(first_frame, first_frame + num_frames, dtype=torch.float32, device=device)
    chunk = CHUNK if torch.device(device).type == "cpu" else 16 * CHUNK
    return torch.cat([
        _render_chunk(scenes[start : start + chunk], time_T, height, width) for start in range(0, len(scenes), chunk)
    ])  # fmt: skip


def _render_chunk(scenes: Sequence[Scene], time_T: torch.Tensor, height: int, width: int) -> torch.Tensor:
    device = time_T.device
    unit = 64 / min(height, width)
    y_H = ((torch.arange(height, device=device) + 0.5) - height / 2) * unit
    x_W = ((torch.arange(width, device=device) + 0.5) - width / 2) * unit
    picture = _draw_background(scenes, time_T, y_H, x_W)
    for depth in (1, 0):  # the first object is in front
        indices = [index for index, scene in enumerate(scenes) if len(scene.objects) > depth]
        if indices:
            index_B = torch.tensor(indices, device=device)
            colour, cover = _draw_objects([scenes[i] for i in indices], depth, time_T, y_H, x_W)
            behind = picture[index_B]
            picture[index_B] = behind + (colour - behind) * cover
    return picture.round_().clamp_(0, 255).to(torch.uint8).permute(0, 1, 3, 4, 2).contiguous()


def _column(values: Sequence[float], time_T: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=time_T.device)[:, None]


def _draw_background(
    scenes: Sequence[Scene], time_T: torch.Tensor, y_H: torch.Tensor, x_W: torch.Tensor
) -> torch.Tensor:
    """Draw the backgrounds as seen by the cameras, (B, T, 3, H, W) floats in [0, 255]."""
    device, batch, frames = time_T.device, len(scenes), len(time_T)
    camera_B = torch.tensor([CAMERAS.index(scene.camera) for scene in scenes], device=device)
    pan_B1 = PAN_SPEED * ((camera_B == 2).float() - (camera_B == 1).float())[:, None]
    zoom_B1 = ((camera_B == 3).float() - (camera_B == 4).float())[:, None]
    scale_BT = ZOOM_RATE ** (-zoom_B1 * time_T.clamp(max=ZOOM_FRAMES))
    shift_BT = _column([scene.offset_x for scene in scenes], time_T) + pan_B1 * time_T
    u_BTW = x_W * scale_BT[..., None] + shift_BT[..., None]
    v_BTH = y_H * scale_BT[..., None] + _column([scene.offset_y for scene in scenes], time_T)[..., None]
    grid = torch.empty(batch, frames, len(y_H), len(x_W), 2, device=device)
    # Texel centres are at half texels; the row and column repeated at the end make the interpolation periodic.
    to_grid = 2 / (TEXELS + 1)
    grid[..., 0] = (((u_BTW * (TEXELS / TILE) - 0.5) % TEXELS + 0.5) * to_grid - 1)[:, :, None, :]
    grid[..., 1] = (((v_BTH * (TEXELS / TILE) - 0.5) % TEXELS + 0.5) * to_grid - 1)[:, :, :, None]
    index_B = torch.tensor([BACKGROUNDS.index(scene.background) for scene in scenes], device=device)
    tiles = background_tiles().to(device)[index_B]
    picture = F.grid_sample(tiles, grid.flatten(1, 2), mode="bilinear", align_corners=False)
    picture = picture.unflatten(2, (frames, len(y_H))).transpose(1, 2)
    is_sky = index_B == BACKGROUNDS.index("sunset")
    if bool(is_sky.any()):
        height_H = (torch.arange(len(y_H), device=device) / max(len(y_H) - 1, 1))[None, :, None]
        top, bottom = (
            torch.tensor(c, dtype=torch.float32, device=device)[:, None, None] for c in (SKY_TOP, SKY_BOTTOM)
        )
        picture[is_sky] += top + (bottom - top) * height_H
    return picture


def _draw_objects(
    scenes: Sequence[Scene], depth: int, time_T: torch.Tensor, y_H: torch.Tensor, x_W: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the colour (B, T, 3, H, W) and the coverage (B, T, 1, H, W) of object number `depth` of every scene."""
    items = [scene.objects[depth] for scene in scenes]
    device = time_T.device
    x_BT, y_BT, radius_BT, angle_BT = _trajectories(scenes, depth, time_T)
    unit = float(y_H[1] - y_H[0])
    span_x, span_y = unit * len(x_W), unit * len(y_H)
    # Opposite borders of the picture are connected.
    dx = (x_W - x_BT[..., None] + span_x / 2) % span_x - span_x / 2
    dy = (y_H - y_BT[..., None] + span_y / 2) % span_y - span_y / 2
    cos, sin = (angle_BT.cos() / radius_BT)[..., None, None], (angle_BT.sin() / radius_BT)[..., None, None]
    dx, dy = dx[..., None, :], dy[..., None]
    along, across = dx * cos + dy * sin, dy * cos - dx * sin
    grid = torch.stack((along, across), -1).flatten(1, 2) / FIELD_REACH
    shape_B = torch.tensor([SHAPES.index(item.shape) for item in items], device=device)
    distance = F.grid_sample(
        shape_fields().to(device)[shape_B], grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    distance = distance.unflatten(2, (len(time_T), len(y_H))).transpose(1, 2) * radius_BT[..., None, None, None]
    cover = (0.5 - distance / unit).clamp(0, 1)
    # The lower right half of the object, in its own coordinates, is in the shade.
    lit = 0.5 - ((along + across)[:, :, None] * (radius_BT[..., None, None, None] / (math.sqrt(2) * 1.5)))
    tone = SHADE + (1 - SHADE) * lit.clamp(0, 1)
    colour_B = torch.tensor([COLOURS.index(item.colour) for item in items], device=device)
    return object_colours().to(device)[colour_B][:, None, :, None, None] * tone, cover


def _trajectories(
    scenes: Sequence[Scene], depth: int, time_T: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the centre x and y (pixels from the middle), radius (pixels) and angle (radians) of each object.

    All are (B, T).
    """
    items = [scene.objects[depth] for scene in scenes]

    def has_motion(motion: str) -> torch.Tensor:
        return _column([float(item.motion == motion) for item in items], time_T)

    fast_B1 = _column([float(item.speed == "fast") for item in items], time_T)
    phase_B1 = _column([item.phase for item in items], time_T)
    x = _column([item.x for item in items], time_T) + _column([velocity(i)[0] for i in items], time_T) * time_T
    y = _column([item.y for item in items], time_T) + _column([velocity(i)[1] for i in items], time_T) * time_T
    # A bounce is a parabola from the ground up and back, in 24 or 16 frames.
    progress = (time_T / (24 - 8 * fast_B1)) % 1
    y = y + has_motion("bounces") * BOUNCE_HEIGHT * (0.5 - 4 * progress * (1 - progress))
    circle_angle = phase_B1 + time_T * (1 + fast_B1) / CIRCLE_RADIUS
    x = x + has_motion("circles") * CIRCLE_RADIUS * circle_angle.cos()
    y = y + has_motion("circles") * CIRCLE_RADIUS * circle_angle.sin()
    # Growing and shrinking end after 32 or 16 frames.
    progress = (time_T * (1 + fast_B1) / 32).clamp(max=1)
    grow, shrink = has_motion("grows"), has_motion("shrinks")
    factor = 1 + grow * (GROW_FROM - 1 + (GROW_TO - GROW_FROM) * progress)
    factor = factor + shrink * (GROW_TO - 1 - (GROW_TO - GROW_FROM) * progress)
    radius = _column([RADIUS[item.size] for item in items], time_T) * factor
    angle = has_motion("spins") * time_T * math.radians(5) * (1 + fast_B1)
    return x, y, radius, angle
