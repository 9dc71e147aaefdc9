"""The renderer: scenes -> clips, many at once, on the CPU or a GPU.

    clips = render([sample_scene(7, i) for i in range(64)], num_frames=17)      # (64, 17, 64, 64, 3) uint8

A straight-moving object that leaves the picture comes back on the other side; growing, shrinking and zooming end after
some seconds; all else goes on for ever. Motion is told as seen on the screen: the camera moves the background alone.
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
PAN = 2.0  # pixels a frame
ZOOM, ZOOM_FRAMES = 1.02, 24.0  # times a frame, for so many frames
GROW_FROM, GROW_TO = 0.8, 1.35  # of the nominal radius
HOP, CIRCLE = 12.0, 8.0  # pixels: height of a bounce, radius of a circle


def render(
    scenes: Sequence[Scene],
    num_frames: int,
    *,
    height: int = 64,
    width: int = 64,
    first_frame: int = 0,
    device: str | torch.device = "cpu",
) -> torch.Tensor:
    """Draw `scenes`, one clip each.

    Returns:
        (B, T, H, W, 3) uint8 frames `first_frame` .. `first_frame + num_frames - 1` on `device`, 8 a second.

    Raises:
        ReelmError: no frames, or a side under 16 pixels.
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
        chosen = [index for index, scene in enumerate(scenes) if len(scene.objects) > depth]
        if chosen:
            index_B = torch.tensor(chosen, device=device)
            colour, cover = _draw_objects([scenes[i] for i in chosen], depth, time_T, y_H, x_W)
            behind = picture[index_B]
            picture[index_B] = behind + (colour - behind) * cover
    return picture.round_().clamp_(0, 255).to(torch.uint8).permute(0, 1, 3, 4, 2).contiguous()


def _column(values: Sequence[float], time_T: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=time_T.device)[:, None]


def _draw_background(
    scenes: Sequence[Scene], time_T: torch.Tensor, y_H: torch.Tensor, x_W: torch.Tensor
) -> torch.Tensor:
    """(B, T, 3, H, W) floats in [0, 255]."""
    device, batch, frames = time_T.device, len(scenes), len(time_T)
    camera_B = torch.tensor([CAMERAS.index(scene.camera) for scene in scenes], device=device)
    pan_B1 = PAN * ((camera_B == 2).float() - (camera_B == 1).float())[:, None]
    zoom_B1 = ((camera_B == 3).float() - (camera_B == 4).float())[:, None]
    scale_BT = ZOOM ** (-zoom_B1 * time_T.clamp(max=ZOOM_FRAMES))
    shift_BT = _column([scene.offset_x for scene in scenes], time_T) + pan_B1 * time_T
    u_BTW = x_W * scale_BT[..., None] + shift_BT[..., None]
    v_BTH = y_H * scale_BT[..., None] + _column([scene.offset_y for scene in scenes], time_T)[..., None]
    grid = torch.empty(batch, frames, len(y_H), len(x_W), 2, device=device)
    # Texel centres lie at half texels; the tile's repeated last texel closes the seam.
    to_grid = 2 / (TEXELS + 1)
    grid[..., 0] = (((u_BTW * (TEXELS / TILE) - 0.5) % TEXELS + 0.5) * to_grid - 1)[:, :, None, :]
    grid[..., 1] = (((v_BTH * (TEXELS / TILE) - 0.5) % TEXELS + 0.5) * to_grid - 1)[:, :, :, None]
    kind_B = torch.tensor([BACKGROUNDS.index(scene.background) for scene in scenes], device=device)
    tiles = background_tiles().to(device)[kind_B]
    picture = F.grid_sample(tiles, grid.flatten(1, 2), mode="bilinear", align_corners=False)
    picture = picture.unflatten(2, (frames, len(y_H))).transpose(1, 2)
    is_sky = kind_B == BACKGROUNDS.index("sunset")
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
    """Colour (B, T, 3, H, W) and coverage (B, T, 1, H, W) of the object number `depth` of every scene."""
    things = [scene.objects[depth] for scene in scenes]
    device = time_T.device
    x_BT, y_BT, radius_BT, angle_BT = _paths(scenes, depth, time_T)
    unit = float(y_H[1] - y_H[0])
    span_x, span_y = unit * len(x_W), unit * len(y_H)
    # The world closes on itself behind the borders of the picture.
    dx = (x_W - x_BT[..., None] + span_x / 2) % span_x - span_x / 2
    dy = (y_H - y_BT[..., None] + span_y / 2) % span_y - span_y / 2
    cos, sin = (angle_BT.cos() / radius_BT)[..., None, None], (angle_BT.sin() / radius_BT)[..., None, None]
    dx, dy = dx[..., None, :], dy[..., None]
    along, across = dx * cos + dy * sin, dy * cos - dx * sin
    grid = torch.stack((along, across), -1).flatten(1, 2) / FIELD_REACH
    kind_B = torch.tensor([SHAPES.index(thing.shape) for thing in things], device=device)
    distance = F.grid_sample(
        shape_fields().to(device)[kind_B], grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    distance = distance.unflatten(2, (len(time_T), len(y_H))).transpose(1, 2) * radius_BT[..., None, None, None]
    cover = (0.5 - distance / unit).clamp(0, 1)
    # The half of the object that is turned down and right is in the shade.
    lit = 0.5 - ((along + across)[:, :, None] * (radius_BT[..., None, None, None] / (math.sqrt(2) * 1.5)))
    tone = SHADE + (1 - SHADE) * lit.clamp(0, 1)
    colour_B = torch.tensor([COLOURS.index(thing.colour) for thing in things], device=device)
    return object_colours().to(device)[colour_B][:, None, :, None, None] * tone, cover


def _paths(
    scenes: Sequence[Scene], depth: int, time_T: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Centre x, centre y (pixels from the middle), radius (pixels) and angle (radians) of every object, each (B, T)."""
    things = [scene.objects[depth] for scene in scenes]

    def moving(motion: str) -> torch.Tensor:
        return _column([float(thing.motion == motion) for thing in things], time_T)

    fast_B1 = _column([float(thing.speed == "fast") for thing in things], time_T)
    phase_B1 = _column([thing.phase for thing in things], time_T)
    x = _column([thing.x for thing in things], time_T) + _column([velocity(t)[0] for t in things], time_T) * time_T
    y = _column([thing.y for thing in things], time_T) + _column([velocity(t)[1] for t in things], time_T) * time_T
    # A bounce is a parabola from the ground up and back, in 24 or 16 frames.
    part = (time_T / (24 - 8 * fast_B1)) % 1
    y = y + moving("bounces") * HOP * (0.5 - 4 * part * (1 - part))
    turn = phase_B1 + time_T * (1 + fast_B1) / CIRCLE
    x = x + moving("circles") * CIRCLE * turn.cos()
    y = y + moving("circles") * CIRCLE * turn.sin()
    # Growing and shrinking take 32 or 16 frames, then hold.
    part = (time_T * (1 + fast_B1) / 32).clamp(max=1)
    grow, shrink = moving("grows"), moving("shrinks")
    factor = 1 + grow * (GROW_FROM - 1 + (GROW_TO - GROW_FROM) * part)
    factor = factor + shrink * (GROW_TO - 1 - (GROW_TO - GROW_FROM) * part)
    radius = _column([RADIUS[thing.size] for thing in things], time_T) * factor
    angle = moving("spins") * time_T * math.radians(5) * (1 + fast_B1)
    return x, y, radius, angle
