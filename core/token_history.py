"""How far each row of a cache has come, and the newest tokens of each: what every language model's cache starts from.

history = TokenHistory(rows=2, frame_size=64, device=device)
history.put_tokens(tokens_BL)                       # at the next L positions of each row
history.advance(1)                                  # the first of them is past now

Memory does not grow with the clip: the tokens lie in a ring of `HISTORY` latent frames.
"""

from collections.abc import Sequence

import torch

from .errors import require

HISTORY = 4  # latent frames of token ids that are kept


class TokenHistory:
    """Positions and newest tokens of B rows.

    Attributes:
        frame_size: tokens in a latent frame, S.
        tokens_BQ: the newest tokens; that of position p is in column p % R, with R = HISTORY * S.
        positions_B: the position of each row's next token, counted from the beginning of its cache.
    """

    def __init__(self, rows: int, frame_size: int, device: torch.device) -> None:
        self.frame_size = frame_size
        self.tokens_BQ = torch.zeros(rows, HISTORY * frame_size, device=device, dtype=torch.int64)
        self.positions_B = torch.zeros(rows, device=device, dtype=torch.int64)

    def next_positions(self, count: int, offsets: Sequence[int] | None = None) -> torch.Tensor:
        """The next L = `count` positions (B, L) of each row, or those at these distances from the next one."""
        device = self.positions_B.device
        ahead_L = torch.arange(count, device=device) if offsets is None else torch.tensor(offsets, device=device)
        return self.positions_B[:, None] + ahead_L

    def put_tokens(self, tokens_BL: torch.Tensor, offsets: Sequence[int] | None = None) -> None:
        """Set the tokens at the next L positions, or at these distances from the next one; nothing advances."""
        positions_BL = self.next_positions(tokens_BL.shape[1], offsets)
        self.tokens_BQ.scatter_(1, positions_BL % self.tokens_BQ.shape[1], tokens_BL)

    def tokens(self, positions_BL: torch.Tensor) -> torch.Tensor:
        """The tokens (B, L) at these positions of the first B rows, as far as they are kept."""
        return self.tokens_BQ[: len(positions_BL)].gather(1, positions_BL % self.tokens_BQ.shape[1])

    def frame(self, row: int, latent_frame: int) -> torch.Tensor:
        """The tokens (S,) of a latent frame of a row, counted from the beginning of its cache."""
        start = latent_frame % HISTORY * self.frame_size
        return self.tokens_BQ[row, start : start + self.frame_size].clone()

    def advance(self, count: int | torch.Tensor) -> None:
        """Move on by `count` positions: one number, or one for each row."""
        self.positions_B += count

    def arrange(self, sources: Sequence[int | None]) -> None:
        """Have as many rows as `sources` has entries: each is the old row of that number, or a fresh one for None.

        Raises:
            ReelmError: the numbers do not ascend.
        """
        kept = [source for source in sources if source is not None]
        require(kept == sorted(set(kept)), "sources", "must ascend", list(sources))
        self.tokens_BQ = gather_rows(self.tokens_BQ, sources)
        self.positions_B = gather_rows(self.positions_B, sources)

    def place_tokens(self, rows: Sequence[int], tokens_S: torch.Tensor) -> None:
        """Have these rows stand at the end of the tokens `tokens_S` of one clip, whose newest are kept."""
        device, kept = self.positions_B.device, self.tokens_BQ.shape[1]
        rows_B = torch.tensor(rows, device=device)
        self.positions_B[rows_B] = len(tokens_S)
        positions_S = torch.arange(max(0, len(tokens_S) - kept), len(tokens_S), device=device)
        self.tokens_BQ[rows_B[:, None], positions_S % kept] = tokens_S.to(device)[positions_S]


def gather_rows(held: torch.Tensor, sources: Sequence[int | None]) -> torch.Tensor:
    """The rows `sources` of `held`, with zeros for None; in the same memory where there are as many, since what was
    captured as a graph looks there."""
    kept = [(row, source) for row, source in enumerate(sources) if source is not None]
    rows, olds = torch.tensor(kept, device=held.device, dtype=torch.int64).view(-1, 2).unbind(1)
    gathered = held.new_zeros((len(sources), *held.shape[1:]))
    gathered[rows] = held[olds]
    return held.copy_(gathered) if held.shape == gathered.shape else gathered
