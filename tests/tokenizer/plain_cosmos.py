"""Cosmos' discrete video tokenizers once more, plain and slow: whole clips, from the names of the published weights.

Written from the description of the networks (NVIDIA 2025, arXiv 2501.03575) and of their files, not from reelm's
networks: every frame is computed by itself, every sum over time is written out, and no state is kept.

    tokens_thw = quantize(encode(weights, frames_T3HW, sizes), levels)       # of values from -1 to 1
    frames_T3HW = decode(weights, tokens_thw, sizes)
"""

import math

import torch
import torch.nn.functional as F


def conv(weights, name, x_TCHW, *, stride=1, pad=(0, 0, 0, 0)):
    """A convolution over each frame."""
    kernel = weights[f"{name}.conv3d.weight"].squeeze(2)
    return F.conv2d(F.pad(x_TCHW, pad), kernel, weights[f"{name}.conv3d.bias"], stride)


def over_time(weights, name, frames, last):
    """A convolution over time whose result at each of the frames `last` reads that frame and the two before it."""
    kernel, bias = weights[f"{name}.conv3d.weight"][..., 0, 0], weights[f"{name}.conv3d.bias"]
    made = []
    for index in last:
        taps = [frames[max(0, index - back)] for back in (2, 1, 0)]
        made.append(
            sum(torch.einsum("oc,chw->ohw", kernel[:, :, tap], taps[tap]) for tap in range(3)) + bias[:, None, None]
        )
    return torch.stack(made)


def factorized(weights, name, x):
    x = conv(weights, f"{name}.0", x, pad=(1, 1, 1, 1))
    return over_time(weights, f"{name}.1", x, range(len(x)))


def norm(weights, name, x):
    scale, shift = weights[f"{name}.norm.weight"], weights[f"{name}.norm.bias"]
    flat = x.flatten(1)
    flat = (flat - flat.mean(1, keepdim=True)) / (flat.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    return flat.view_as(x) * scale[:, None, None] + shift[:, None, None]


def swish(x):
    return x / (1 + (-x).exp())


def residual(weights, name, x):
    hidden = factorized(weights, f"{name}.conv1", swish(norm(weights, f"{name}.norm1", x)))
    hidden = factorized(weights, f"{name}.conv2", swish(norm(weights, f"{name}.norm2", hidden)))
    shortcut = f"{name}.nin_shortcut"
    return hidden + (conv(weights, shortcut, x) if f"{shortcut}.conv3d.weight" in weights else x)


def attend(weights, name, x, time):
    """Attention of each position to those of its frame, or to itself in its frame and the frames before."""
    normed = norm(weights, f"{name}.norm", x)
    query, key, value = (conv(weights, f"{name}.{part}", normed).flatten(2) for part in "qkv")  # (T, C, H * W)
    if time:
        scores = torch.einsum("tcp,scp->pts", query, key) / math.sqrt(query.shape[1])
        later = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
        found = torch.einsum("pts,scp->tcp", scores.masked_fill(later, -math.inf).softmax(2), value)
    else:
        scores = torch.einsum("tcp,tcq->tpq", query, key) / math.sqrt(query.shape[1])
        found = torch.einsum("tpq,tcq->tcp", scores.softmax(2), value)
    return x + conv(weights, f"{name}.proj_out", found.reshape(x.shape))


def middle(weights, name, x):
    x = residual(weights, f"{name}.block_1", x)
    x = attend(weights, f"{name}.attn_1.1", attend(weights, f"{name}.attn_1.0", x, False), True)
    return residual(weights, f"{name}.block_2", x)


def haar(x):
    """Halve frames, rows and columns of (T, C, H, W): eight bands, in the order of the bits (time, row, column)."""
    bands = []
    for t, h, w in ((t, h, w) for t in (1, -1) for h in (1, -1) for w in (1, -1)):
        total = 0
        for a, b, c in ((a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)):
            total = total + t**a * h**b * w**c * x[a::2, :, b::2, c::2]
        bands.append(total / 8)
    return torch.cat(bands, 1)


def unhaar(x):
    """The inverse of `haar`."""
    frames, channels, height, width = x.shape
    made = torch.zeros(2 * frames, channels // 8, 2 * height, 2 * width)
    signs = [(t, h, w) for t in (1, -1) for h in (1, -1) for w in (1, -1)]
    for a, b, c in ((a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)):
        for (t, h, w), band in zip(signs, x.chunk(8, 1), strict=True):
            made[a::2, :, b::2, c::2] += t**a * h**b * w**c * band
    return made


def halvings(sizes):
    return int(math.log2(sizes["temporal"] // sizes["patch"])), int(math.log2(sizes["spatial"] // sizes["patch"]))


def encode(weights, frames_T3HW, sizes):
    """Return the latents (t, h, w, D) of a clip."""
    x = torch.cat([frames_T3HW[:1]] * (sizes["patch"] - 1) + [frames_T3HW])
    for _ in range(int(math.log2(sizes["patch"]))):
        x = haar(x)
    x, (times, sides) = factorized(weights, "encoder.conv_in", x), halvings(sizes)
    for level in range(len(sizes["multipliers"])):
        for block in range(sizes["blocks"]):
            x = residual(weights, f"encoder.down.{level}.block.{block}", x)
        name = f"encoder.down.{level}.downsample"
        if level == len(sizes["multipliers"]) - 1 or (level >= times and level >= sides):
            continue
        if level < sides:
            x = conv(weights, f"{name}.conv1", x, stride=2, pad=(0, 1, 0, 1)) + F.avg_pool2d(x, 2)
        if level < times:
            kept = range(0, len(x), 2)
            means = torch.stack([(x[max(0, index - 1)] + x[index]) / 2 for index in kept])
            x = over_time(weights, f"{name}.conv2", x, kept) + means
        x = conv(weights, f"{name}.conv3", x)
    x = middle(weights, "encoder.mid", x)
    x = factorized(weights, "encoder.conv_out", swish(norm(weights, "encoder.norm_out", x)))
    return conv(weights, "quant_conv", x).permute(0, 2, 3, 1)


def quantize(latents, levels):
    """Finite scalar quantization (arXiv 2309.15505, with the offset of its appendix): the ids of latents (..., D)."""
    tokens, basis = 0, 1
    for channel, count in enumerate(levels):
        half = (count - 1) * 1.001 / 2
        offset = 0.5 if count % 2 == 0 else 0.0
        value = torch.tanh(latents[..., channel] + math.atanh(offset / half)) * half - offset
        tokens = tokens + (value.round() + count // 2).long() * basis
        basis *= count
    return tokens


def decode(weights, tokens_thw, sizes):
    """Return the frames (T, 3, H, W) of a clip."""
    digits, rest = [], tokens_thw
    for count in sizes["levels"]:
        digits.append((rest % count - count // 2) / (count // 2))
        rest = rest // count
    x = conv(weights, "post_quant_conv", torch.stack(digits, 1))
    x = middle(weights, "decoder.mid", factorized(weights, "decoder.conv_in", x))
    times, sides = halvings(sizes)
    levels = len(sizes["multipliers"])
    for done, level in enumerate(reversed(range(levels))):
        for block in range(sizes["blocks"] + 1):
            x = residual(weights, f"decoder.up.{level}.block.{block}", x)
        doubles = 0 < done <= times
        larger = doubles or (done < sides and sides > times)
        name = f"decoder.up.{level}.upsample"
        if level == 0 or not (doubles or larger):
            continue
        if doubles:  # the first frame stays alone
            x = torch.stack([x[(index + 1) // 2] for index in range(2 * len(x) - 1)])
            x = x + over_time(weights, f"{name}.conv1", x, range(len(x)))
        if larger:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = x + conv(weights, f"{name}.conv2", x, pad=(1, 1, 1, 1))
        x = conv(weights, f"{name}.conv3", x)
    x = factorized(weights, "decoder.conv_out", swish(norm(weights, "decoder.norm_out", x)))
    for _ in range(int(math.log2(sizes["patch"]))):
        x = unhaar(x)
    return x[sizes["patch"] - 1 :]
