"""`attention` in plain torch: the reference for tests of the Triton kernels, and the implementation for CPUs.

    out_BSNE, lse_BNS = attention_reference(q_BSNE, k_BSKE, v_BSKE, frame_size=64, window=8, …)

Queries are processed in blocks of a few hundred, each with the keys that any query of the block may see. This computes
little more than half of all scores if attention is causal, and for a long clip little more than those in the window.
Scores and their sums are in float32, or in float64 for float64; under autocast, products are in its dtype.
"""

from collections.abc import Iterator

import torch

ROWS = 256  # queries in a block


def attention_reference(
    q_BSNE: torch.Tensor,
    k_BSKE: torch.Tensor,
    v_BSKE: torch.Tensor,
    *,
    prefix: int,
    q_prefix_BSNE: torch.Tensor | None,
    prefix_lengths_B: torch.Tensor | None,
    frame_size: int,
    window: int | None,
    mask: str,
    return_lse: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Compute `attention`, with the same arguments, and return (out_BSNE, lse_BNS or None)."""
    B, S, N, E = q_BSNE.shape
    K, sum_dtype = k_BSKE.shape[2], torch.promote_types(q_BSNE.dtype, torch.float32)
    if q_BSNE.numel() == 0:
        return q_BSNE.clone(), q_BSNE.to(sum_dtype).sum(-1).transpose(1, 2) if return_lse else None
    if prefix_lengths_B is None:
        prefix_lengths_B = torch.full((B,), prefix, device=q_BSNE.device)
    blocks = list(_blocks(S, prefix, frame_size, window, mask))
    sizes = [len(rows) for rows, _ in blocks]
    # The query heads of a key/value head become the rows of one matrix, so that keys and values are not repeated.
    q_BKGSE, q_prefix_BKGSE = (
        q.unflatten(2, (K, N // K)).permute(0, 2, 3, 1, 4)
        for q in (q_BSNE, q_BSNE if q_prefix_BSNE is None else q_prefix_BSNE)
    )
    k_BKES, v_BKSE = k_BSKE.permute(0, 2, 3, 1).to(sum_dtype), v_BSKE.transpose(1, 2)
    slots_S = torch.arange(S, device=q_BSNE.device)
    zero, outs, sums, empty = torch.zeros((), device=q_BSNE.device, dtype=sum_dtype), [], [], []
    queries = zip(q_BKGSE.split(sizes, 3), q_prefix_BKGSE.split(sizes, 3), strict=True)
    for (rows, keys), (q_BKGLE, q_prefix_BKGLE) in zip(blocks, queries, strict=True):
        products = (
            q_prefix_BKGLE.reshape(B, K, -1, E).to(sum_dtype) @ k_BKES[..., :prefix],
            q_BKGLE.reshape(B, K, -1, E).to(sum_dtype) @ k_BKES[..., keys.start : keys.stop],
        )
        scores_BKGLC = torch.cat(products, -1).unflatten(2, (N // K, len(rows)))
        slots_C = torch.cat((slots_S[:prefix], slots_S[keys.start : keys.stop]))
        visible_BLC = visible(
            slots_S[rows.start : rows.stop], slots_C, prefix_lengths_B,
            prefix=prefix, frame_size=frame_size, window=window, mask=mask,
        )  # fmt: skip
        # A query that sees nothing would have a softmax of NaN. It sees everything here, and is zeroed at the end.
        empty.append(~visible_BLC.any(-1))
        hidden_BLC = torch.where(visible_BLC | empty[-1][:, :, None], zero, -torch.inf)
        scores_BKGLC = torch.add(hidden_BLC[:, None, None], scores_BKGLC, alpha=E**-0.5)
        weights_BKMC = scores_BKGLC.softmax(-1).to(v_BSKE.dtype).flatten(2, 3)
        v_BKCE = torch.cat((v_BKSE[:, :, :prefix], v_BKSE[:, :, keys.start : keys.stop]), 2)
        outs.append((weights_BKMC @ v_BKCE).unflatten(2, (N // K, len(rows))))
        if return_lse:
            sums.append(scores_BKGLC.logsumexp(-1))
    empty_BS = torch.cat(empty, 1)
    out_BSNE = torch.cat(outs, 3).permute(0, 3, 1, 2, 4).flatten(2, 3)
    out_BSNE = out_BSNE.masked_fill(empty_BS[:, :, None, None], 0.0)
    if not return_lse:
        return out_BSNE, None
    return out_BSNE, torch.cat(sums, 3).flatten(1, 2).masked_fill(empty_BS[:, None], -torch.inf)


def _blocks(S: int, prefix: int, frame_size: int, window: int | None, mask: str) -> Iterator[tuple[range, range]]:
    """Yield blocks of queries, each with the range of video keys (from `prefix` on) that any of its queries may see."""
    if prefix:
        yield range(prefix), range(prefix, S if mask == "full" else prefix)
    # A block is a number of whole latent frames, or a part of one.
    step = ROWS // frame_size * frame_size or ROWS
    for start in range(prefix, S, step):
        stop = min(S, start + step)
        frame, last_frame = (start - prefix) // frame_size, (stop - 1 - prefix) // frame_size
        first = 0 if window is None else max(0, frame - window + 1) * frame_size
        last = {"token": stop, "frame": prefix + (last_frame + 1) * frame_size, "full": S}[mask]
        yield range(start, stop), range(prefix + first, min(S, last))


def visible(
    slots_L: torch.Tensor,
    slots_C: torch.Tensor,
    prefix_lengths_B: torch.Tensor,
    *,
    prefix: int,
    frame_size: int,
    window: int | None,
    mask: str,
) -> torch.Tensor:
    """Return the mask (B, L, C): whether the query of a slot of the sequence sees the key of another slot.

    Args:
        slots_L: The slots of the queries, indices into the sequence.
        slots_C: The slots of the keys.
        prefix_lengths_B, prefix, frame_size, window, mask: The same as for `attention`.
    """
    query_L1, key_C = slots_L[:, None], slots_C
    valid_BC = (key_C < prefix_lengths_B[:, None]) & (key_C < prefix)
    if mask == "full":
        return (valid_BC | (key_C >= prefix))[:, None].expand(-1, len(slots_L), -1)
    # These are the latent frames of video tokens; prefix slots have negative ones.
    query_frame_L1 = (query_L1 - prefix).div(frame_size, rounding_mode="floor")
    key_frame_C = (key_C - prefix).div(frame_size, rounding_mode="floor")
    before_LC = key_C <= query_L1
    if mask == "frame":
        before_LC = before_LC | ((key_frame_C == query_frame_L1) & (key_C >= prefix) & (query_L1 >= prefix))
    in_window_LC = key_C >= prefix
    if window is not None:
        in_window_LC = in_window_LC & (query_frame_L1 - key_frame_C < window)
    return before_LC & (valid_BC[:, None] | in_window_LC)
