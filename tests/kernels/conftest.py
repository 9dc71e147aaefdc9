"""Slow plain twins of the attention ops, one row and one head at a time; tests get them as the fixture `oracle`."""

import types

import pytest
import torch


def attend(q_NE, q_prefix_NE, k_SKE, v_SKE, keys, prefix):
    """Attention of one token to the slots `keys`, of which those below `prefix` are scored with q_prefix."""
    N, E = q_NE.shape
    heads = []
    for head in range(N):
        kv_head = head // (N // k_SKE.shape[1])
        queries = [q_prefix_NE[head] if key < prefix else q_NE[head] for key in keys]
        if not keys:
            heads.append(torch.zeros_like(q_NE[head]))
            continue
        scores = torch.stack([query @ k_SKE[key, kv_head] for query, key in zip(queries, keys, strict=True)]) * E**-0.5
        heads.append(scores.softmax(0) @ v_SKE[keys, kv_head])
    return torch.stack(heads)


def visible_keys(row, length, *, prefix, frame_size=1, window=None, mask="token", video=0):
    """The slots that row `row` of [prefix | video] sees, by the definition; `video` is the number of video tokens."""
    n = row - prefix
    if mask == "full":
        return [*range(length), *range(prefix, prefix + video)]
    if n < 0:
        return [key for key in range(row + 1) if key < length]
    last = n if mask == "token" else min((n // frame_size + 1) * frame_size, video) - 1
    near = [m for m in range(last + 1) if window is None or m // frame_size > n // frame_size - window]
    return [*range(length), *(prefix + m for m in near)]


def attention(q_BSNE, q_prefix_BSNE, k_BSKE, v_BSKE, lengths, *, rows=None, **layout):
    """`attention`, row by row, in the dtype of its inputs; the last `rows` rows, or all."""
    B, S, N, E = q_BSNE.shape
    rows = S if rows is None else rows
    results = [
        attend(
            q_BSNE[b, row], q_prefix_BSNE[b, row], k_BSKE[b], v_BSKE[b],
            visible_keys(row, int(lengths[b]), video=S - layout["prefix"], **layout), layout["prefix"],
        )
        for b in range(B) for row in range(S - rows, S)
    ]  # fmt: skip
    return torch.stack(results).view(B, rows, N, E) if results else torch.zeros_like(q_BSNE)


def ring_cache(k_BSKE, positions, L, lengths, *, prefix, frame_size, window, ring):
    """The ring cache (B, K, C, E) after the L tokens at each of `positions`; what none of them sees is NaN."""
    B, _, K, E = k_BSKE.shape
    cache = torch.full((B, K, prefix + ring, E), float("nan"), dtype=k_BSKE.dtype)
    for b, position in enumerate(positions):
        for row in range(prefix + position, prefix + position + L):
            for key in visible_keys(row, int(lengths[b]), prefix=prefix, frame_size=frame_size, window=window):
                cache[b, :, key if key < prefix else prefix + (key - prefix) % ring] = k_BSKE[b, key]
    return cache


def tokens_at(x_BSNE, positions, L, prefix):
    """The L tokens (B, L, …) of each row that start at its video position."""
    return torch.stack(
        [x[prefix + position : prefix + position + L] for x, position in zip(x_BSNE, positions, strict=True)]
    )


def least_ring(L, *, frame_size, window, **_):
    """The shortest ring of whole latent frames for steps of L tokens, by search over where a step can start."""
    ring = frame_size
    while True:
        starts = range(window * frame_size, (window + 1) * frame_size)
        if all(start + L - ring <= (start // frame_size - window + 1) * frame_size for start in starts):
            return ring
        ring += frame_size


@pytest.fixture(scope="session")
def oracle():
    return types.SimpleNamespace(
        attention=attention,
        visible_keys=visible_keys,
        ring_cache=ring_cache,
        tokens_at=tokens_at,
        least_ring=least_ring,
    )
