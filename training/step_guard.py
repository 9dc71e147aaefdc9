"""A guard that leaves out the steps of a training which would spoil its weights, and ends a run of nothing else.

guard = StepGuard(spike=50.0, most=10)
if guard.accepts(norm):                      # of the gradient, before it is clipped
    optimizer.step()
guard.load(*guard.values())                  # for a run that goes on

A step is left out if its gradient is not finite, or if its norm is above `spike` times the mean norm of the steps
before, which forgets them by 1% a step. (Chowdhery et al. 2022, arXiv 2204.02311, section 5.1: runs recover from spikes
of the loss where some batches are left out.)
"""

import math

from ..core.errors import require

FIRST_STEPS = 100  # in which the norms change too much to tell which of them is a spike
FORGETTING = 0.01


class StepGuard:
    """The norms of the steps so far.

    Attributes:
        mean: The mean norm, which forgets.
        steps: The steps that were accepted, at most `FIRST_STEPS`.
        left_out: The steps that were left out since the last one that was accepted.
    """

    def __init__(self, spike: float, most: int) -> None:
        """Begin without norms; `most` is the number of steps in a row that may be left out: one more ends the run."""
        self._spike, self._most = spike, most
        self.mean, self.steps, self.left_out = 0.0, 0, 0

    def accepts(self, norm: float, *others: float) -> bool:
        """Return whether a step is to be made whose gradients have these norms, all of which must be finite."""
        limit = self._spike * self.mean if self.steps == FIRST_STEPS else math.inf
        if not (all(map(math.isfinite, (norm, *others))) and norm <= limit):
            self.left_out += 1
            return False
        self.steps, self.left_out = min(self.steps + 1, FIRST_STEPS), 0
        # At first it is the plain mean.
        self.mean += max(FORGETTING, 1 / self.steps) * (norm - self.mean)
        return True

    def values(self) -> tuple[float, int, int]:
        """Return the attributes; a run that goes on after it was ended begins to count anew."""
        left_out = 0 if self.gives_up else self.left_out
        return self.mean, self.steps, left_out

    def load(self, mean: float, steps: int, left_out: int) -> None:
        """Take over what `values` has returned."""
        self.mean, self.steps, self.left_out = mean, steps, left_out

    @property
    def gives_up(self) -> bool:
        """Whether more steps in a row were left out than may be."""
        return self.left_out > self._most

    def check(self, loss: float) -> None:
        """Check that the run may go on.

        Raises:
            ReelmError: More steps in a row were left out than may be.
        """
        rule = f"must have a finite gradient that is no spike in one of {self._most + 1} steps in a row"
        require(not self.gives_up, "loss", rule, loss)
