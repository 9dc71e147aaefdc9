"""Ratios of two things that are measured in turns, round by round, so that a slow machine is slow for both.

ratios_of([2.0, 4.0, 2.2], [1.0, 2.0, 1.0])      # {"ratio": 2.0, "ratio_low": 2.0, "ratio_high": 2.1}
"""

import statistics
from collections.abc import Sequence


def ratios_of(figures: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    """Return the median and the quartiles, over the rounds, of a figure divided by the other one of the same round.

    Args:
        figures: The figure of each round.
        others: The figure in each round of what it is compared with.
    """
    ratios = [figure / other for figure, other in zip(figures, others, strict=True)]
    if len(ratios) == 1:
        return {"ratio": ratios[0], "ratio_low": ratios[0], "ratio_high": ratios[0]}
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {"ratio": middle, "ratio_low": low, "ratio_high": high}
