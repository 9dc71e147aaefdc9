"""The reconstruction losses of a tokenizer: distances between a clip and its reconstruction, without a network.

value = reconstruction_loss(frames_BTHW3, reconstruction_BTHW3, moving_weight=4.0)
value += 0.1 * structure_loss(frames_BTHW3, reconstruction_BTHW3)
"""

import torch
import torch.nn.functional as F

LUMA = (0.2126, 0.7152, 0.0722)  # ITU-R BT.709
WINDOW = 8
SCALES = 3


def moving_pixels(frames_BTHW3: torch.Tensor, threshold: float = 0.03) -> torch.Tensor:
    """Return a mask (B, T, H, W, 1): 1 where a frame in [0, 1] differs from the one before or after it, else 0."""
    change = (frames_BTHW3[:, 1:] - frames_BTHW3[:, :-1]).abs().amax(-1, keepdim=True) > threshold
    none = torch.zeros_like(change[:, :1])
    return (torch.cat([none, change], 1) | torch.cat([change, none], 1)).float()


def reconstruction_loss(
    frames_BTHW3: torch.Tensor, reconstruction_BTHW3: torch.Tensor, moving_weight: float
) -> torch.Tensor:
    """Return the weighted Charbonnier distance sqrt(d^2 + e^2) - e with e = 0.05: quadratic near 0, linear far away.

    Pixels that move weigh `moving_weight` times as much as others.
    """
    distance = torch.sqrt((frames_BTHW3 - reconstruction_BTHW3).square() + 0.05**2) - 0.05
    if moving_weight == 1:
        return distance.mean()
    weight = 1 + (moving_weight - 1) * moving_pixels(frames_BTHW3)
    return (distance * weight).mean() / weight.mean()


def structure_loss(frames_BTHW3: torch.Tensor, reconstruction_BTHW3: torch.Tensor) -> torch.Tensor:
    """Return how much local contrast and structure is lost at full, half and quarter size, from 0 to 2.

    The loss is 1 minus the contrast-structure factor of SSIM, averaged over windows and scales (Wang, Simoncelli and
    Bovik 2003, "Multiscale structural similarity for image quality assessment"; Zhao et al. 2017, arXiv 1511.08861, use
    it as a loss together with L1). Here the windows are flat, 8 pixels wide and 4 apart, on luma; scales at which no
    window fits are left out.
    """
    luma = torch.tensor(LUMA, device=frames_BTHW3.device)
    # Variances are small differences of moments: values are centred, and no matrix product is left to autocast.
    x, y = (
        (clip_BTHW3.float() * luma).sum(-1).flatten(0, 1).unsqueeze(1) - 0.5
        for clip_BTHW3 in (frames_BTHW3, reconstruction_BTHW3)
    )
    lost: list[torch.Tensor] = []
    while min(x.shape[2:]) >= WINDOW and len(lost) < SCALES:
        moments = torch.cat([x, y, x * x, y * y, x * y], 1)
        mean_x, mean_y, xx, yy, xy = F.avg_pool2d(moments, WINDOW, WINDOW // 2).unbind(1)
        deviations = (xx - mean_x * mean_x) + (yy - mean_y * mean_y)
        kept = (2 * (xy - mean_x * mean_y) + 0.03**2) / (deviations + 0.03**2)
        lost.append(1 - kept.mean())
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return torch.stack(lost).mean() if lost else reconstruction_BTHW3.new_zeros(())
