"""The position and the newest tokens of each row of a cache: a base class for the caches of language models.

history = TokenHistory(rows=2, frame_size=64, device=device)
history.put_tokens(tokens_BL)                       # writes the next L positions of each row
history.advance(1)                                  # moves each row past the first of them

Memory does not grow with the clip: the tokens are in a ring buffer of `HISTORY` latent frames.
"""

from collections.abc import Sequence

import torch

from .errors import require

# Latent frames of tokens that are kept. A pass may look at two new ones; the input of a token has those of the two
# before its own; and one more, after which a pass has begun, may be taken back (`Engine.rewind`).
HISTORY = 5


class TokenHistory:
    """The positions and newest tokens of B rows.

    Attributes:
        frame_size: The number of tokens in a latent frame, S.
        tokens_BQ: The newest tokens of each row; that of position p is in column p % Q, with Q = HISTORY * S.
        positions_B: The position of each row's next token, counted from the beginning of its cache.
    """

    def __init__(self, rows: int, frame_size: int, device: torch.device) -> None:
        self.frame_size = frame_size
        self.tokens_BQ = torch.zeros(rows, HISTORY * frame_size, device=device, dtype=torch.int64)
        self.positions_B = torch.zeros(rows, device=device, dtype=torch.int64)

    def next_positions(self, count: int, offsets: Sequence[int] | None = None) -> torch.Tensor:
        """Return the next L = `count` positions (B, L) of each row, or those at `offsets` from the next one."""
        device = self.positions_B.device
        ahead_L = torch.arange(count, device=device) if offsets is None else torch.tensor(offsets, device=device)
        return self.positions_B[:, None] + ahead_L

    def put_tokens(self, tokens_BL: torch.Tensor, offsets: Sequence[int] | None = None) -> None:
        """Write the tokens of the next L positions, or of those at `offsets` from the next one, without advancing."""
        positions_BL = self.next_positions(tokens_BL.shape[1], offsets)
        self.tokens_BQ.scatter_(1, positions_BL % self.tokens_BQ.shape[1], tokens_BL)

    def tokens(self, positions_BL: torch.Tensor) -> torch.Tensor:
        """Return the tokens (B, L) at these positions of the first B rows; the positions must be among the newest Q."""
        return self.tokens_BQ[: len(positions_BL)].gather(1, positions_BL % self.tokens_BQ.shape[1])

    def frame(self, row: int, latent_frame: int) -> torch.Tensor:
        """Return the tokens (S,) of a latent frame of a row, counted from the beginning of the row's cache."""
        start = latent_frame % HISTORY * self.frame_size
        return self.tokens_BQ[row, start : start + self.frame_size].clone()

    def advance(self, count: int | Sequence[int]) -> None:
        """Advance all rows by `count` positions, or each row by its own number."""
        self.positions_B += count if isinstance(count, int) else torch.tensor(count, device=self.positions_B.device)

    def arrange(self, sources: Sequence[int | None]) -> None:
        """Replace the rows: row i becomes the old row `sources[i]`, or an empty one for None.

        Raises:
            ReelmError: The indices in `sources` do not ascend.
        """
        kept = [source for source in sources if source is not None]
        require(kept == sorted(set(kept)), "sources", "must ascend", list(sources))
        self.tokens_BQ = gather_rows(self.tokens_BQ, sources)
        self.positions_B = gather_rows(self.positions_B, sources)

    def restore_tokens(self, rows: Sequence[int], tokens_S: torch.Tensor) -> None:
        """Set these rows to the end of the tokens `tokens_S` of one clip, and keep the newest of them."""
        device, size = self.positions_B.device, self.tokens_BQ.shape[1]
        rows_B = torch.tensor(rows, device=device)
        self.positions_B[rows_B] = len(tokens_S)
        positions_S = torch.arange(max(0, len(tokens_S) - size), len(tokens_S), device=device)
        self.tokens_BQ[rows_B[:, None], positions_S % size] = tokens_S.to(device)[positions_S]


def tokens_at(tokens_BQ: torch.Tensor, positions_BLX: torch.Tensor) -> torch.Tensor:
    """Return the tokens at positions (B, …), of which that of position p is in column p % Q."""
    columns_BLX = positions_BLX % tokens_BQ.shape[1]
    return tokens_BQ.gather(1, columns_BLX.flatten(1)).view_as(columns_BLX)


def gather_rows(tensor: torch.Tensor, sources: Sequence[int | None]) -> torch.Tensor:
    """Return the rows `sources` of `tensor`, with zeros for None.

    If the number of rows stays the same, the result is written into `tensor` itself, whose memory captured CUDA graphs
    refer to.
    """
    kept = [(row, source) for row, source in enumerate(sources) if source is not None]
    rows, old_rows = torch.tensor(kept, device=tensor.device, dtype=torch.int64).view(-1, 2).unbind(1)
    gathered = tensor.new_zeros((len(sources), *tensor.shape[1:]))
    gathered[rows] = tensor[old_rows]
    return tensor.copy_(gathered) if tensor.shape == gathered.shape else gathered
