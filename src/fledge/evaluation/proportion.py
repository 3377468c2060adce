"""How sure a share of rows is, when some rows are about one thing and so are less evidence than their number.

Shape letters: R rows, G groups of rows (a row without a group is a group of its own).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Interval = tuple[float, float]

Z_95 = NormalDist().inv_cdf(0.975)


def number_groups(groups: Sequence[str | None]) -> npt.NDArray[np.int64]:
    """Return for each row the number of its group, 0..G-1, shape (R,)."""
    numbers: dict[str | int, int] = {}
    keys = (row if group is None else group for row, group in enumerate(groups))
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def effective_rows(values_R: npt.NDArray[np.float64], group_R: npt.NDArray[np.int64]) -> float:
    """Return how many independent rows would tell as much about the mean of `values_R` as these grouped rows do.

    That is R divided by Kish's design effect (Survey Sampling, 1965): the variance of the mean estimated from the
    group totals, over the one that independent rows would have. It is kept between R (groups do not matter) and
    R^2 / sum of squared group sizes (the rows of a group always agree), which is also the answer when all values are
    equal and nothing can be estimated.
    """
    rows = values_R.size
    sizes_G = np.bincount(group_R)
    fewest = rows**2 / float((sizes_G**2).sum())
    variance = float(values_R.var()) / rows
    if variance == 0 or sizes_G.size == 1:
        return fewest
    residuals_G = np.bincount(group_R, weights=values_R - values_R.mean())
    grouped = sizes_G.size / (sizes_G.size - 1) * float((residuals_G**2).sum()) / rows**2
    return float(np.clip(rows * variance / grouped, fewest, rows)) if grouped else float(rows)


def share_of(values: Sequence[float], groups: Sequence[str | None]) -> tuple[float, Interval]:
    """Return the mean of values of 0 to 1, one a row, and its 95 % interval given the rows' groups."""
    values_R = np.array(values, dtype=np.float64)
    share = float(values_R.mean())
    return share, wilson(share, effective_rows(values_R, number_groups(groups)))


def wilson(share: float, rows: float) -> Interval:
    """Return the 95 % score interval of a share seen in `rows` independent rows (Wilson, JASA 22, 1927, 209-212).

    `rows` may be the fractional number of `effective_rows`: the modified Wilson interval of survey statistics
    (Korn and Graubard, Survey Methodology 24, 1998, 193-201, with Wilson's interval in the place of Clopper's).
    """
    z2 = Z_95**2
    centre = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = Z_95 * math.sqrt(share * (1 - share) / rows + z2 / (4 * rows**2)) / (1 + z2 / rows)
    return min(max(0.0, centre - half), share), max(min(1.0, centre + half), share)
