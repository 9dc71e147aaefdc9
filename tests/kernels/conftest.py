"""Slow plain twins and checks that several tests of the ops share; tests get them as the fixture `oracle`."""

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


def decode_slots(
    token, position, length, ring, *, prefix, frame_size, window, prefix_from, ancestors_LA, query_positions_L,
):  # fmt: skip
    """The slots of its row of the cache that one query of a step at `position` sees, by the definition."""
    query = position + token if query_positions_L is None else max(int(query_positions_L[token]), position)
    known = [m for m in range(position) if m // frame_size > query // frame_size - window]
    if ancestors_LA is None:
        newer = [
            m for m in range(max(0, position), position + token + 1) if m // frame_size > query // frame_size - window
        ]
    else:
        newer = [position + a for a, seen in enumerate(ancestors_LA[token].tolist()) if seen and position + a >= 0]
    seen_prefix = range(length if max(query, 0) // frame_size >= prefix_from else 0)
    return [*seen_prefix, *(prefix + m % ring for m in known + newer)]


def slots_of_step(q_BLNE, k_cache_BKCE, positions_B, prefix_lengths_B, *, ancestors_BLA=None, query_positions_BL=None,
                  prefix, frame_size, window, prefix_from=0, **_):  # fmt: skip
    """What each query of a step sees: for every row a list for every query."""
    B, L = q_BLNE.shape[:2]
    return [
        [
            decode_slots(
                token, int(positions_B[b]), int(prefix_lengths_B[b]), k_cache_BKCE.shape[2] - prefix,
                prefix=prefix, frame_size=frame_size, window=window, prefix_from=prefix_from,
                ancestors_LA=None if ancestors_BLA is None else ancestors_BLA[b % len(ancestors_BLA)],
                query_positions_L=None if query_positions_BL is None else query_positions_BL[b],
            )
            for token in range(L)
        ]
        for b in range(B)
    ]  # fmt: skip


def dequantized(cache_BKCE, scales_BKC, dtype):
    if scales_BKC is None:
        return cache_BKCE
    wide = torch.promote_types(dtype, torch.float32)
    return (cache_BKCE.to(wide) * scales_BKC.to(wide)[..., None]).to(dtype)


def decode_attention(**arguments):
    """`decode_attention`, query by query, in the dtype of the queries."""
    q, q_prefix, prefix = arguments["q_BLNE"], arguments["q_prefix_BLNE"], arguments["prefix"]
    caches = [dequantized(arguments[f"{x}_cache_BKCE"], arguments.get(f"{x}_scales_BKC"), q.dtype) for x in "kv"]
    out = torch.empty_like(q)
    for b, slots_of_row in enumerate(slots_of_step(**arguments)):
        k_SKE, v_SKE = (cache[b].transpose(0, 1) for cache in caches)
        for token, slots in enumerate(slots_of_row):
            out[b, token] = attend(q[b, token], q_prefix[b, token], k_SKE, v_SKE, slots, prefix)
    return out


def decode_arguments(
    seed, dtype, *, K, group, E, prefix, frame_size, window, positions, lengths, L=1, A=None, spare=0,
    ancestors=False, query_positions=False, int8=False, prefix_from=0,
):  # fmt: skip
    """Random arguments of `decode_attention`, with these options; what nobody sees is poisoned."""
    random, device, B = torch.Generator().manual_seed(seed), torch.empty(0).device, len(positions)

    def integers(high, *shape):
        return torch.randint(high, shape, generator=random, device="cpu").to(device)

    def floats(*shape, dtype=dtype):
        return torch.randn(shape, dtype=torch.float64, generator=random, device="cpu").to(device, dtype)

    ring = least_ring(A or L, frame_size=frame_size, window=window) + spare * frame_size
    shape = (B, K, prefix + ring, E)
    arguments = {
        "q_BLNE": floats(B, L, K * group, E), "q_prefix_BLNE": floats(B, L, K * group, E),
        "k_cache_BKCE": floats(*shape), "v_cache_BKCE": floats(*shape),
        "positions_B": torch.tensor(positions), "prefix_lengths_B": torch.tensor(lengths),
        "prefix": prefix, "frame_size": frame_size, "window": window, "prefix_from": prefix_from,
    }  # fmt: skip
    if ancestors:  # some queries see many of the newer slots, some few, some none
        rows = int(integers(2, 1)) * (B - 1) + 1
        arguments["ancestors_BLA"] = integers(100, rows, L, A or L) < integers(5, rows, L, 1) * 25
    if query_positions:  # some before the first newer slot, some far after it
        jumps = integers((window + 1) * frame_size + 1, B, L) - frame_size
        arguments["query_positions_BL"] = (torch.tensor(positions)[:, None] + jumps).clamp(min=0)
    if int8:
        for x in "kv":
            arguments[f"{x}_cache_BKCE"] = (integers(255, *shape) - 127).to(torch.int8)
            arguments[f"{x}_scales_BKC"] = floats(*shape[:3], dtype=torch.float32).abs() / 50
    poison(arguments)
    return arguments


def poison(arguments):
    """Put NaN into every slot of the caches (or of their scales) that no query sees."""
    seen_BC = torch.zeros(arguments["k_cache_BKCE"][:, 0, :, 0].shape, dtype=torch.bool)
    for b, slots_of_row in enumerate(slots_of_step(**arguments)):
        seen_BC[b, list(set().union(*slots_of_row))] = True
    kind = "scales_BKC" if "k_scales_BKC" in arguments else "cache_BKCE"
    for x in "kv":
        arguments[f"{x}_{kind}"].transpose(1, 2)[~seen_BC] = float("nan")


def least_ring(L, *, frame_size, window, aligned=False, **_):
    """The shortest ring of whole latent frames for steps of L tokens, by search over where a step can start.

    `aligned`: only with a latent frame.
    """
    ring = frame_size
    while True:
        starts = range(window * frame_size, (window + 1) * frame_size, frame_size if aligned else 1)
        if all(start + L - ring <= (start // frame_size - window + 1) * frame_size for start in starts):
            return ring
        ring += frame_size


def distances(x_ND, codebook_KD):
    return torch.cdist(x_ND.double(), codebook_KD.double(), compute_mode="donot_use_mm_for_euclid_dist").square()


def check_nearest(ids_N, x_ND, codebook_KD):
    """The distance of each chosen code is the least there is, or a few roundings of |c| ** 2 / 2 - x . c more."""
    assert ids_N.dtype == torch.int64 and ids_N.shape == x_ND.shape[:1]
    distances_NK = distances(x_ND, codebook_KD)
    excess_N = distances_NK.gather(1, ids_N[:, None])[:, 0] - distances_NK.min(1).values
    size = x_ND.double().norm(dim=1) + codebook_KD.double().norm(dim=1).max()
    assert (excess_N <= 4 * torch.finfo(torch.float32).eps * size.square()).all()


@pytest.fixture(scope="session")
def oracle():
    return types.SimpleNamespace(
        attention=attention,
        visible_keys=visible_keys,
        decode_attention=decode_attention,
        decode_arguments=decode_arguments,
        least_ring=least_ring,
        distances=distances,
        check_nearest=check_nearest,
    )
