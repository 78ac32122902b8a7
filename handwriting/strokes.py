"""What a line of ink is, and what a pen on a whiteboard is like.

A line is **points** (T, 3), a row for each reading of the pen: how far it went in x and in y since the row before, and
whether it is lifted afterwards (1) or not (0). Or it is **strokes**, a list of positions (n, 2), from where the pen
touches down to where it is lifted. y grows downwards, in whiteboard units unless it is said otherwise.
"""

from collections.abc import Sequence

import numpy as np

# The pen is read about 75 times a second, with time stamps rounded to 10 ms: 99 % of the steps within a stroke take
# 30 ms or less.
PERIOD = 0.0133  # s, from one reading to the next
USUAL_STEP = 18.0  # whiteboard units, the median length of a step within a stroke
# The board goes on recording while the pen rests: in 5 % of the steps it moves less than this. A network that has
# learned to rest may never stop, and a bias (eq. 62) makes that likelier. The smallest letters are ten times as high.
SHORTEST_STEP = 3.0  # whiteboard units


def to_strokes(points: np.ndarray) -> list[np.ndarray]:
    """Points (T, 3) -> strokes (n, 2) float64. The first stroke begins at the first offset."""
    positions = np.cumsum(points[:, :2], axis=0, dtype=np.float64)
    after = np.flatnonzero(points[:, 2] > 0.5) + 1
    return [stroke for stroke in np.split(positions, after) if len(stroke)]


def ends_of(lengths: Sequence[int]) -> np.ndarray:
    """Whether a point is the last of its stroke, (n,) bool, for strokes of `lengths` points that add up to n."""
    return np.isin(np.arange(sum(lengths)), np.cumsum(lengths) - 1)


def to_points(strokes: list[np.ndarray]) -> np.ndarray:
    """Strokes (n, 2) -> points (T, 3) float32. The first offset is (0, 0), wherever the first stroke begins."""
    positions = np.concatenate(strokes)
    ends = ends_of([len(stroke) for stroke in strokes])
    return np.column_stack([np.diff(positions, axis=0, prepend=positions[:1]), ends]).astype(np.float32)
