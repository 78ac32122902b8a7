"""The lines of writing in a drawing: paper left out, pieces of strokes joined, rows apart.

Strokes are positions (n, 2) in any unit, y downwards.
"""

import numpy as np

TOUCHING = 1e-4  # how near pieces of one stroke are, by the size of the drawing
EVEN = 2e-3  # how far a ruled line is off its direction, by its length
RULE_LENGTH = 5.0  # of a ruled line, at the least, by the height of strokes: a bar has less
ROW_GAP, WIDE_GAP = 0.8, 1.5  # between the middles of strokes in two rows, by the height of strokes
SMALL = 0.4  # of the height of strokes: dots and bars, which do not tell where a row is
RISES = sorted(np.linspace(-0.12, 0.12, 97).tolist(), key=abs)  # that rows may have, y to x: up to 7 degrees


def sides(strokes: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The top left and bottom right corners of strokes, (m, 2) each."""
    return np.array([stroke.min(0) for stroke in strokes]), np.array([stroke.max(0) for stroke in strokes])


def join_pieces(strokes: list[np.ndarray]) -> list[np.ndarray]:
    """Strokes of which each that begins where the last one ends goes on from it, as exports with pen pressure have."""
    begins, ends = np.array([stroke[0] for stroke in strokes]), np.array([stroke[-1] for stroke in strokes])
    near = TOUCHING * max(np.ptp(begins, axis=0).max(), np.ptp(ends, axis=0).max())
    apart = np.hypot(*(begins[1:] - ends[:-1]).T) > near
    groups = np.split(np.arange(len(strokes)), np.flatnonzero(apart) + 1)
    return [np.concatenate([strokes[group[0]], *(strokes[n][1:] for n in group[1:])]) for group in groups]


def without_paper(strokes: list[np.ndarray]) -> list[np.ndarray]:
    """Strokes without ruled lines and frames around all: straight, level or upright, and as long as the writing."""
    low, high = sides(strokes)
    size = high - low
    near = EVEN * size.max(1)
    boxes = zip(strokes, low, high, near, strict=True)  # even: all along the edges of its own box
    is_even = np.array([(np.minimum(s - top, bottom - s) <= off).any(1).all() for s, top, bottom, off in boxes])
    if is_even.all():
        return strokes  # nothing else tells what would be paper
    left, right = low[~is_even].min(0), high[~is_even].max(0)
    width, height = right - left
    longest = RULE_LENGTH * np.median(size[~is_even][:, 1])
    is_level = (size[:, 1] <= near) & (size[:, 0] >= max(0.9 * width, longest))
    is_upright = (size[:, 0] <= near) & (size[:, 1] >= max(1.5 * height, longest))
    is_frame = (low <= left).all(1) & (high >= right).all(1)
    is_paper = is_even & (is_level | is_upright | is_frame)
    return [stroke for stroke, is_left in zip(strokes, ~is_paper, strict=True) if is_left]


def find_rise(strokes: list[np.ndarray], band: float) -> float:
    """The rise of the rows that strokes stand in, y to x: along it most points are in few bands of a height."""
    x, y = np.concatenate(strokes).T
    counts = [np.unique(np.floor((y - rise * x) / band), return_counts=True)[1] for rise in RISES]
    return RISES[int(np.argmax([np.square(each, dtype=float).sum() for each in counts]))]


def split_rows(strokes: list[np.ndarray]) -> list[list[np.ndarray]]:
    """Strokes by the rows of writing that they stand in. What is not clearly a row stays with the one above."""
    low, high = sides(strokes)
    heights = high[:, 1] - low[:, 1]
    unit = np.median(heights[heights >= 0.2 * heights.max()])
    middles = (low + high) / 2 @ [-find_rise(strokes, unit / 3 or 1.0), 1]
    order = np.argsort(middles, kind="stable")
    order = order[heights[order] >= SMALL * unit]
    rows: list[list[int]] = []
    for group in np.split(order, np.flatnonzero(np.diff(middles[order]) > ROW_GAP * unit) + 1):
        left, right, is_row = low[group, 0].min(), high[group, 0].max(), True
        if rows:
            before, after = low[rows[-1], 0].min(), high[rows[-1], 0].max()
            is_below = min(right, after) - max(left, before) > 0.5 * min(right - left, after - before)
            is_far = middles[group[0]] - middles[rows[-1][-1]] > WIDE_GAP * unit
            is_row = min(right - left, after - before) > 2 * unit and bool(is_below or is_far)
        if is_row:
            rows.append([])
        rows[-1].extend(group.tolist())
    centers = np.array([middles[row].mean() for row in rows])
    owners = np.searchsorted((centers[1:] + centers[:-1]) / 2, middles)  # of dots: the nearest row
    for number, row in enumerate(rows):
        owners[row] = number
    return [[strokes[n] for n in np.flatnonzero(owners == number)] for number in range(len(rows))]
