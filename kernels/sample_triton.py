"""`sample` in Triton: two launches, without a sort and without reading any tensor on the host.

    tokens_B = sample_triton(
        logits_RV, seeds_B, samples_B, positions_B,
        guidance_scale=3.0, temperature=0.9, top_k=50, top_p=0.95, min_p=0.0, noise_BV=None,
    )

The first launch has one program for each tile of a row and computes scores and perturbed scores. Without top-k, top-p
and min-p (the rules) it writes the best token of each tile, and the second launch selects the best of those. With rules
the second launch has one program for each row:

- For top-k, the k-th highest of the maxima of small groups of scores is a bound that at least k tokens reach. The
  tokens that reach it are listed in ascending order of ids, and the k-th highest score of the list is found by
  bisection. The bound of min-p is computed directly.
- For top-p there is no search. All tokens with at least the score of an allowed token are allowed. So the token with
  the best perturbed score is the result if it is allowed; otherwise no token with its score or a lower one is allowed,
  and the best of the remaining ones is tested next. This takes at most 1 / top_p rounds on average.

Every sum is over one row in a fixed order, so that a row has the same token alone and in any batch.
"""

# ruff: noqa: ANN001, PLR0913, SIM102 (the arguments of kernels, which Triton types at each launch; its constant ifs)

import math

import torch
import triton
import triton.language as tl

from . import noise
from .fusion import FUSED, SEPARATE

TILE = 1024  # entries in a program of the first launch
GROUP = 16  # entries in a group whose highest score is stored
LISTED_BLOCK = 1024  # entries of the list that are read at once

KEY_0, KEY_1 = tl.constexpr(noise.WEYL[0]), tl.constexpr(noise.WEYL[1])
MULTIPLIER_0, MULTIPLIER_1 = tl.constexpr(noise.MULTIPLIERS[0]), tl.constexpr(noise.MULTIPLIERS[1])
ROUNDS = tl.constexpr(noise.ROUNDS)
SQRT_HALF = tl.constexpr(noise.SQRT_HALF)
LN2 = tl.constexpr(noise.LN2)
CURVE_0, CURVE_1, CURVE_2, CURVE_3, CURVE_4, CURVE_5, CURVE_6 = (tl.constexpr(number) for number in noise.CURVE)


@triton.jit
def _minus_log(octaves, excess):  # type: ignore[no-untyped-def]
    curve = excess * CURVE_6 + CURVE_5
    curve = curve * excess + CURVE_4
    curve = curve * excess + CURVE_3
    curve = curve * excess + CURVE_2
    curve = curve * excess + CURVE_1
    curve = curve * excess + CURVE_0
    return octaves.to(tl.float32) * LN2 - excess + curve * excess * excess


@triton.jit
def _gumbel(bits):  # type: ignore[no-untyped-def]
    """Return `noise.gumbel` of uint32 words; the kernel must be compiled without fused multiply-adds."""
    odd = (bits.to(tl.int64) << 1) + 1
    octaves = 33 - ((odd.to(tl.float32).to(tl.int32, bitcast=True) - SQRT_HALF) >> 23)
    excess = ((odd << octaves.to(tl.int64)) - 8589934592).to(tl.float32) * 1.1641532182693481e-10  # 2**33, 2**-33
    offset = _minus_log(octaves, excess).to(tl.int32, bitcast=True) - SQRT_HALF
    excess = ((offset & 0x7FFFFF) + SQRT_HALF).to(tl.float32, bitcast=True) - 1.0
    return _minus_log(-(offset >> 23), excess)


@triton.jit
def _noise_of_tile(tile, seed, sample, position, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return `noise.gumbel_noise` of a tile's entries, from tile * TILE on; seed, sample and position are int64."""
    c0 = (tile * (TILE // 4) + tl.arange(0, TILE // 4)).to(tl.uint32)
    zero = tl.zeros([TILE // 4], tl.uint32)
    c1, c2, c3 = zero + position.to(tl.uint32), zero + (position >> 32).to(tl.uint32), zero + sample.to(tl.uint32)
    k0, k1 = zero + seed.to(tl.uint32), zero + (seed >> 32).to(tl.uint32)
    m0, m1 = zero + MULTIPLIER_0, zero + MULTIPLIER_1
    for _ in tl.static_range(ROUNDS):
        high_0, high_1 = tl.umulhi(c0, m0), tl.umulhi(c2, m1)
        low_0, low_1 = c0 * m0, c2 * m1
        c0, c1, c2, c3 = high_1 ^ c1 ^ k0, low_1, high_0 ^ c3 ^ k1, low_0
        k0, k1 = k0 + KEY_0, k1 + KEY_1
    # Words 0 .. 3 of a counter belong to successive entries.
    bits = tl.reshape(tl.join(tl.join(c0, c2), tl.join(c1, c3)), [TILE])
    return _gumbel(bits)


@triton.jit
def _score_kernel(  # type: ignore[no-untyped-def]
    logits_ptr, seeds_ptr, samples_ptr, positions_ptr, noise_ptr, scores_ptr, perturbed_ptr, best_ptr, ids_ptr,
    logits_stride, noise_stride, V, guidance_scale, inverse_temperature,
    GUIDED: tl.constexpr, GREEDY: tl.constexpr, DRAWN: tl.constexpr, RULES: tl.constexpr,
    TILE: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    id_V = tile * TILE + tl.arange(0, TILE)
    valid_V = id_V < V
    score_V = tl.load(logits_ptr + row * logits_stride + id_V, mask=valid_V, other=0.0).to(tl.float32)
    if GUIDED:
        unconditional_ptr = logits_ptr + (tl.num_programs(1) + row) * logits_stride
        unconditional_V = tl.load(unconditional_ptr + id_V, mask=valid_V, other=0.0).to(tl.float32)
        score_V = unconditional_V + guidance_scale * (score_V - unconditional_V)
    # The comparison with itself is False for NaN.
    score_V = tl.where(valid_V & (score_V == score_V), score_V * inverse_temperature, float("-inf"))
    if GREEDY:
        perturbed_V = score_V
    elif DRAWN:
        perturbed_V = score_V + tl.load(noise_ptr + row * noise_stride + id_V, mask=valid_V, other=0.0)
    else:
        seed, sample, position = tl.load(seeds_ptr + row), tl.load(samples_ptr + row), tl.load(positions_ptr + row)
        perturbed_V = score_V + _noise_of_tile(tile, seed, sample, position, TILE)
    if RULES:
        tl.store(scores_ptr + row * V + id_V, score_V, mask=valid_V)
        tl.store(perturbed_ptr + row * V + id_V, perturbed_V, mask=valid_V)
        best_X = tl.max(tl.reshape(score_V, [TILE // GROUP, GROUP]), 1)
        group_X = tile * (TILE // GROUP) + tl.arange(0, TILE // GROUP)
        groups = tl.cdiv(V, GROUP)
        tl.store(best_ptr + row * groups + group_X, best_X, mask=group_X < groups)
    else:
        best = tl.max(perturbed_V, 0)
        winner = row * tl.num_programs(0) + tile
        tl.store(best_ptr + winner, best)
        tl.store(ids_ptr + winner, tl.min(tl.where(perturbed_V == best, id_V, V), 0))


@triton.jit
def _winner_kernel(best_ptr, ids_ptr, tokens_ptr, tiles, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    tile_T = tl.arange(0, BLOCK)
    best_T = tl.load(best_ptr + row * tiles + tile_T, mask=tile_T < tiles, other=float("-inf"))
    id_T = tl.load(ids_ptr + row * tiles + tile_T, mask=tile_T < tiles, other=2147483647)
    token = tl.min(tl.where(best_T == tl.max(best_T, 0), id_T, 2147483647), 0)
    tl.store(tokens_ptr + row, token.to(tl.int64))


@triton.jit
def _in_order(number):  # type: ignore[no-untyped-def]
    """Map float32 to int32 and keep the order; apart from the types, the map is its own inverse."""
    bits = tl.where(number == 0.0, 0.0, number).to(tl.int32, bitcast=True)  # -0.0 becomes 0.0
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _from_order(order):  # type: ignore[no-untyped-def]
    order = order.to(tl.int32)
    return (order ^ ((order >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _entries(start, list_ptr, count, LISTED: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the ids of BLOCK entries from `start` on, and which of them exist."""
    place_V = start + tl.arange(0, BLOCK)
    valid_V = place_V < count
    if LISTED:
        id_V = tl.load(list_ptr + place_V, mask=valid_V, other=0)
    else:
        id_V = place_V
    return id_V, valid_V


@triton.jit
def _bound_of(  # type: ignore[no-untyped-def]
    k, scores_ptr, list_ptr, count, least, best, LISTED: tl.constexpr, BLOCK: tl.constexpr
):
    """Return the k-th highest score, or a lower bound that exactly k entries reach; at least k must reach `least`."""
    low, high = _in_order(least).to(tl.int64), _in_order(best).to(tl.int64)
    while low < high:
        middle = (low + high + 1) >> 1
        bound = _from_order(middle)
        reach_V = tl.zeros([BLOCK], tl.int32)
        for start in range(0, count, BLOCK):
            id_V, valid_V = _entries(start, list_ptr, count, LISTED, BLOCK)
            score_V = tl.load(scores_ptr + id_V, mask=valid_V, other=0.0)
            reach_V += (valid_V & (score_V >= bound)).to(tl.int32)
        reach = tl.sum(reach_V, 0)
        low = tl.where(reach >= k, middle, low)
        high = tl.where(reach == k, middle, tl.where(reach > k, high, middle - 1))
    return _from_order(low)


@triton.jit
def _draw(  # type: ignore[no-untyped-def]
    scores_ptr, perturbed_ptr, list_ptr, count, weighed_from, drawn_from, best,
    LISTED: tl.constexpr, WEIGHED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Return the mass of the entries with scores from `weighed_from` on, and the best token from `drawn_from` on.

    A score of `best` has mass 1. The best token has the highest perturbed score, and the lowest id of equal ones.
    """
    mass_V = tl.zeros([BLOCK], tl.float32)
    best_V = tl.full([BLOCK], float("-inf"), tl.float32)
    best_id_V = tl.zeros([BLOCK], tl.int32)
    for start in range(0, count, BLOCK):
        id_V, valid_V = _entries(start, list_ptr, count, LISTED, BLOCK)
        score_V = tl.load(scores_ptr + id_V, mask=valid_V, other=float("-inf"))
        perturbed_V = tl.load(perturbed_ptr + id_V, mask=valid_V, other=float("-inf"))
        if WEIGHED:
            mass_V += tl.where(valid_V & (score_V >= weighed_from), tl.exp(score_V - best), 0.0)
        better_V = (score_V >= drawn_from) & (perturbed_V > best_V)
        best_V = tl.where(better_V, perturbed_V, best_V)
        best_id_V = tl.where(better_V, id_V, best_id_V)
    # Ids ascend from iteration to iteration, so that each lane keeps the lowest of its ids with equal scores.
    token = tl.min(tl.where(best_V == tl.max(best_V, 0), best_id_V, 2147483647), 0)
    return tl.sum(mass_V, 0), token


@triton.jit
def _rules_kernel(  # type: ignore[no-untyped-def]
    scores_ptr, perturbed_ptr, best_ptr, list_ptr, tokens_ptr, V, groups, top_k, top_p, log_min_p,
    TOP_K: tl.constexpr, TOP_P: tl.constexpr, MIN_P: tl.constexpr, LISTED: tl.constexpr,
    BLOCK: tl.constexpr, LISTED_BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    scores_ptr += row * V
    perturbed_ptr += row * V
    best_ptr += row * groups
    list_ptr += row * V
    best_V = tl.full([BLOCK], float("-inf"), tl.float32)
    for start in range(0, groups, BLOCK):
        group_V = start + tl.arange(0, BLOCK)
        best_V = tl.maximum(best_V, tl.load(best_ptr + group_V, mask=group_V < groups, other=float("-inf")))
    best = tl.max(best_V, 0)

    least = tl.full([], float("-inf"), tl.float32)
    drawn_from = least
    if MIN_P:
        drawn_from = best + log_min_p
    if TOP_K:
        if top_k <= 0:
            least = _bound_of(top_k, best_ptr, best_ptr, groups, least, best, False, BLOCK)
    count = V
    if LISTED:
        # All tokens that top-k allows count for top-p, so min-p may only shorten the list if there is no top-p.
        listed_from = least
        if not TOP_P:
            listed_from = tl.maximum(least, drawn_from)
        count = 0
        for start in range(0, V, BLOCK):
            id_V = start + tl.arange(0, BLOCK)
            score_V = tl.load(scores_ptr + id_V, mask=id_V < V, other=float("-inf"))
            kept_V = (score_V >= listed_from) & (score_V > float("-inf"))
            place_V = count + tl.cumsum(kept_V.to(tl.int32), 0) - 1
            tl.store(list_ptr + place_V, id_V, mask=kept_V)
            count += tl.sum(kept_V.to(tl.int32), 0)
        tl.debug_barrier()  # other threads than those that wrote the list read it
    if TOP_K:
        if count > top_k:
            least = _bound_of(top_k, scores_ptr, list_ptr, count, least, best, LISTED, LISTED_BLOCK)
    drawn_from = tl.maximum(least, drawn_from)
    if TOP_P:
        weighed_from, limit, token, refused = least, -1.0, 0, True
        while refused:
            # The first round computes the total mass and the first candidate, each further round the mass above the
            # candidate's score and the next candidate.
            mass, best_of_rest = _draw(
                scores_ptr, perturbed_ptr, list_ptr, count, weighed_from, drawn_from, best, LISTED, True, LISTED_BLOCK
            )
            # A candidate with no higher score is the best token and is accepted in spite of rounding.
            refused = (limit < 0.0) | ((mass >= limit) & (mass > 0.0))
            limit = tl.where(limit < 0.0, top_p * mass, limit)
            token = tl.where(refused, best_of_rest, token)
            drawn_from = _from_order(_in_order(tl.load(scores_ptr + token)) + 1)
            weighed_from = drawn_from
    else:
        _, token = _draw(
            scores_ptr, perturbed_ptr, list_ptr, count, least, drawn_from, best, LISTED, False, LISTED_BLOCK
        )
    tl.store(tokens_ptr + row, tl.cast(token, tl.int64))


def sample_triton(
    logits_RV: torch.Tensor,
    seeds_B: torch.Tensor,
    samples_B: torch.Tensor,
    positions_B: torch.Tensor,
    *,
    guidance_scale: float,
    temperature: float,
    top_k: int | None,
    top_p: float,
    min_p: float,
    noise_BV: torch.Tensor | None,
) -> torch.Tensor:
    """Compute `sample`, with the same arguments and result."""
    B, V, device = len(seeds_B), logits_RV.shape[1], logits_RV.device
    tokens_B = torch.empty(B, dtype=torch.int64, device=device)
    if B == 0:
        return tokens_B
    ruled_by_k = top_k is not None and top_k < V
    rules = temperature > 0 and (ruled_by_k or top_p < 1 or min_p > 0)
    blocks = block_sizes(V)
    tiles, groups = triton.cdiv(V, blocks["TILE"]), triton.cdiv(V, GROUP)
    best_BX = torch.empty(B, groups if rules else tiles, dtype=torch.float32, device=device)
    # The ids are those of the tiles' best tokens without rules, and the list of candidates with rules.
    ids_BV = torch.empty(B, V if rules else tiles, dtype=torch.int32, device=device)
    scores_BV, perturbed_BV = torch.empty(2, B, V if rules else 0, dtype=torch.float32, device=device)
    inputs = [x if x.stride(-1) == 1 else x.contiguous() for x in (logits_RV, seeds_B, samples_B, positions_B)]
    noise = inputs[0] if noise_BV is None else noise_BV if noise_BV.stride(-1) == 1 else noise_BV.contiguous()
    # The bits of the noise are those of plain torch.
    _score_kernel[(tiles, B)](
        *inputs, noise, scores_BV, perturbed_BV, best_BX, ids_BV,
        inputs[0].stride(0), noise.stride(0), V, float(guidance_scale), 1 / temperature if temperature > 0 else 1.0,
        GUIDED=guidance_scale != 1, GREEDY=temperature == 0, DRAWN=noise_BV is not None, RULES=rules,
        TILE=blocks["TILE"], GROUP=GROUP, num_warps=4, **SEPARATE,
    )  # fmt: skip
    if not rules:
        block = triton.next_power_of_2(tiles)
        _winner_kernel[(B,)](best_BX, ids_BV, tokens_B, tiles, BLOCK=block, num_warps=1, **FUSED)
        return tokens_B
    listed = ruled_by_k or (min_p > 0 and top_p == 1)
    _rules_kernel[(B,)](
        scores_BV, perturbed_BV, best_BX, ids_BV, tokens_B, V, groups, top_k if ruled_by_k else 0, float(top_p),
        math.log(min_p) if min_p > 0 else 0.0,
        TOP_K=ruled_by_k, TOP_P=top_p < 1, MIN_P=min_p > 0, LISTED=listed,
        BLOCK=blocks["BLOCK"], LISTED_BLOCK=min(LISTED_BLOCK, blocks["BLOCK"]) if listed else blocks["BLOCK"],
        num_warps=blocks["num_warps"], **FUSED,
    )  # fmt: skip
    return tokens_B


def block_sizes(V: int) -> dict[str, int]:
    """Return TILE and BLOCK, the entries that a program of the first and second launch loads at once, and num_warps.

    A row's program in the second launch is alone on its multiprocessor and needs enough loads in flight to keep it
    busy: 4 numbers for each thread, and up to 16 once there are 16 warps. Nothing here depends on the batch.
    """
    block = min(8192, triton.next_power_of_2(V))
    return {
        "TILE": min(TILE, max(64, triton.next_power_of_2(V))),
        "BLOCK": block,
        "num_warps": min(16, max(1, block // 128)),
    }
