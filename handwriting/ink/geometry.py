r"""What is measured on ink, and what brings it to another form: baseline, x-height, slant, scale, spacing of points.

                   |
    ascender       |                                      /   slant: degrees from the vertical,
                   |                                     /    positive to the right
                   |   ____    ____                     /
    x-height    ---|--/----|--|----\-------------------/---   y = -x_height
                   | |     |  |     |
    baseline    ---|--\____|__|____/-----------------------   y = 0
                              |
    descender                 |                               slope: dy by dx of the baseline as it was written
                              |

Ink is strokes, a list of positions (n, 2) in any unit, x to the right and y downwards; heights are in the ink's unit.
Most places where the pen turns upwards are on the baseline, and most where it turns downwards at the x-height.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from handwriting.strokes import USUAL_STEP, to_points

USUAL_X_HEIGHT = 130.0  # whiteboard units: the median of recorded lines, as `find_level` measures it
MOST_BOTTOMS = 1000  # that tell a slope: a line has some 60


def segments(strokes: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The middles (m, 2) and the lengths in x and y (m, 2) of all steps within strokes."""
    positions = np.concatenate([*strokes, np.zeros((0, 2))])
    is_within = np.ones(max(len(positions) - 1, 0), bool)
    is_within[np.cumsum([len(stroke) for stroke in strokes[:-1]], dtype=int) - 1] = False
    return ((positions[1:] + positions[:-1]) / 2)[is_within], np.diff(positions, axis=0)[is_within]


def turning_points(strokes: list[np.ndarray], least: float) -> tuple[np.ndarray, np.ndarray]:
    """Where the pen turns in y: the tops (m, 2) and the bottoms (k, 2), each `least` off the one before in its stroke.

    The ends of a stroke count, unless the whole stroke is flatter than `least`.
    """
    positions, bounds = np.concatenate(strokes), np.cumsum([0, *map(len, strokes)])
    is_place = np.zeros(len(positions), bool)  # where y may be the greatest or the least: at turns and ends
    is_place[1:-1] = np.diff(np.sign(np.diff(positions[:, 1]))) != 0
    is_place[bounds[:-1]] = is_place[bounds[1:] - 1] = True
    places = positions[is_place]
    y, tops, bottoms = places[:, 1].tolist(), [], []  # numbers of places
    for begin, end in pairwise(np.searchsorted(np.flatnonzero(is_place), bounds).tolist()):
        high = low = begin  # of the least and the greatest y since the last turn that counts
        direction = 0  # 1: going down the page
        for place in range(begin, end):
            high = place if y[place] < y[high] else high
            low = place if y[place] > y[low] else low
            if direction <= 0 and y[place] - y[high] >= least:
                tops.append(high)
                direction, low = 1, place
            elif direction >= 0 and y[low] - y[place] >= least:
                bottoms.append(low)
                direction, high = -1, place
        if direction > 0:
            bottoms.append(low)
        elif direction < 0:
            tops.append(high)
    return places[np.array(tops, int)], places[np.array(bottoms, int)]


class Level(NamedTuple):
    """Where a line of ink stands."""

    slope: float  # of the baseline, y by x
    x: np.ndarray  # (k,) places along the line when the slope is out, ascending
    baseline: np.ndarray  # (k,) y of the baseline there
    x_height: float

    def apply(self, positions: np.ndarray) -> np.ndarray:
        """Positions (n, 2) turned by the slope, and moved up or down so that the baseline is y = 0 all along."""
        turned = turn(positions, self.slope)
        turned[:, 1] -= np.interp(turned[:, 0], self.x, self.baseline)
        return turned


def turn(positions: np.ndarray, slope: float) -> np.ndarray:
    """Positions (n, 2) turned about the origin so that a line of this slope becomes level."""
    cos, sin = np.cos(np.arctan(slope)), np.sin(np.arctan(slope))
    return positions @ np.array([[cos, -sin], [sin, cos]])


def split_like(positions: np.ndarray, strokes: list[np.ndarray]) -> list[np.ndarray]:
    """Positions (N, 2) of all points as strokes, each as long as that of `strokes`."""
    bounds = np.cumsum([0, *map(len, strokes)]).tolist()
    return [positions[begin:end] for begin, end in pairwise(bounds)]


def find_level(strokes: list[np.ndarray], x_height: float | None = None) -> Level:
    """Measure slope, baseline and x-height of one line of ink. Raises ValueError for ink without any extent.

    The baseline is a straight slope, and what is left of it, which changes slowly. The x-height is the median height of
    the places where the pen turns downwards; give it where it is known, as for a short line of a known hand.
    """
    everything = np.concatenate(strokes)
    if not (extent := np.ptp(everything, axis=0)).any():
        raise ValueError("its ink has no extent")
    least_unit = extent.max() / 500  # no line has more characters
    middles, steps = segments(strokes)
    lengths = np.hypot(*steps.T)
    slope = height = 0.0  # first guesses: a straight line through all ink, and the height of the middle half of it
    if lengths.any():
        x, y = (middles - np.average(middles, axis=0, weights=lengths)).T
        if extent[0] > 2 * extent[1] and (spread := (lengths * x**2).sum()):
            slope = float((lengths * x * y).sum() / spread)
        order = np.argsort(levelled := turn(middles, slope)[:, 1])
        share = np.cumsum(lengths[order]) / lengths.sum()
        height = float(np.subtract(*np.interp([0.75, 0.25], share, levelled[order])))
    unit = max(x_height or height or np.ptp(turn(everything, slope), axis=0).max(), least_unit)
    for _ in range(2):
        _, bottoms = turning_points(split_like(turn(everything, slope), strokes), 0.35 * unit)
        slope = float(np.tan(np.arctan(slope) + np.arctan(fit_slope(bottoms, unit))))
        turned = turn(everything, slope)
        tops, bottoms = turning_points(split_like(turned, strokes), 0.35 * unit)
        x, baseline = local_baseline(bottoms, turned, unit)
        heights = np.interp(tops[:, 0], x, baseline) - tops[:, 1]
        heights = heights[heights > 0.35 * unit]
        if x_height is None and len(heights):
            unit = max(float(np.median(heights)), least_unit)
    return Level(slope, x, baseline, unit)


def fit_slope(bottoms: np.ndarray, unit: float) -> float:
    """The slope of a line through most bottoms (k, 2): Theil and Sen's, then least squares near it."""
    if len(bottoms) < 4 or np.ptp(bottoms[:, 0]) < 4 * unit:
        return 0.0  # such short ink could be a single letter's
    bottoms = bottoms[:: len(bottoms) // MOST_BOTTOMS + 1]  # all pairs are compared
    x, y = (bottoms - bottoms.mean(0)).T
    first, second = np.triu_indices(len(bottoms), 1)
    far = np.abs(x[first] - x[second]) > unit
    slope = float(np.median((y[first] - y[second])[far] / (x[first] - x[second])[far]))
    left = y - slope * x
    near = np.abs(left - np.median(left)) < 0.4 * unit
    is_long = near.sum() >= 4 and np.ptp(x[near]) >= 4 * unit
    return float(np.polyfit(x[near], y[near], 1)[0]) if is_long else slope


def local_baseline(bottoms: np.ndarray, positions: np.ndarray, unit: float) -> tuple[np.ndarray, np.ndarray]:
    """The baseline of level ink, positions (n, 2), as y (k,) at places x (k,); it changes slowly along the line.

    Each y is a weighted mean of the bottoms (m, 2) around, without descenders: those far from the baseline of the round
    before. Where there are few bottoms it stays near that baseline. `unit` is the x-height.
    """
    x = np.linspace(positions[:, 0].min(), positions[:, 0].max(), 2 + int(np.ptp(positions[:, 0]) / unit))
    baseline = np.full(len(x), np.median(bottoms[:, 1]) if len(bottoms) else positions[:, 1].max())
    for reach, limit in ((8, 0.6), (4, 0.5), (3, 0.4)):  # x-heights
        left = bottoms[:, 1] - np.interp(bottoms[:, 0], x, baseline)
        near = np.abs(left) < limit * unit
        weights = np.exp(-0.5 * ((x[:, None] - bottoms[near, 0]) / (reach * unit)) ** 2)  # (k, m)
        baseline = baseline + weights @ left[near] / (weights.sum(1) + 1.0)
    return x, baseline


def find_slant(strokes: list[np.ndarray]) -> float:
    """The slant of level ink in degrees from the vertical, positive to the right; 0 for ink without downstrokes.

    Without it, the steps down the page within 50 degrees of the vertical go as much to the right as to the left.
    """
    steps = segments(strokes)[1]
    (dx, dy), shear = steps[steps[:, 1] > 0].T, 0.0
    for _ in range(20):
        upright = dx + shear * dy
        is_steep = np.abs(upright) < np.tan(np.radians(50)) * dy
        if not is_steep.any():
            return 0.0
        shear -= upright[is_steep].sum() / dy[is_steep].sum()
    return float(np.degrees(np.arctan(shear)))


def hand_aspect(strokes: list[np.ndarray], text: str) -> float:
    """The x-height of a line by its mean advance; NaN without width. Raises ValueError without extent or text."""
    if not text.strip():
        raise ValueError("its text has no characters")
    level = find_level(strokes)
    advance = np.ptp(level.apply(np.concatenate(strokes))[:, 0]) / len(text)
    return float(level.x_height / advance) if advance else np.nan


def to_writing_scale(strokes: list[np.ndarray]) -> np.ndarray:
    """Strokes (n, 2) in any unit -> level points (T, 3) of usual x-height and steps. Raises as `find_level`."""
    level = find_level(strokes)
    return to_points([resample(level.apply(s) * (USUAL_X_HEIGHT / level.x_height), USUAL_STEP) for s in strokes])


def resample(stroke: np.ndarray, step: float) -> np.ndarray:
    """A stroke (n, 2) with points about `step` apart along it and both ends kept; one point if it has no length."""
    along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(stroke, axis=0).T))])
    if not along[-1]:
        return stroke[:1]
    at = np.linspace(0, along[-1], max(1, round(along[-1] / step)) + 1)
    return np.column_stack([np.interp(at, along, stroke[:, axis]) for axis in (0, 1)])


def beziers(stroke: np.ndarray) -> np.ndarray:
    """A centripetal Catmull-Rom spline through a stroke's points (n, 2) as cubic Bezier curves: n' - 1 of them.

    Returns places (3 n' - 2, 2): of each curve its end, two control points, and then its other end, where the next one
    begins. It makes no loops of its own (Yuksel et al. 2011). Repeated points are left out, and so n' may be less.
    """
    knots = stroke[np.concatenate([[True], np.diff(stroke, axis=0).any(axis=1)])]
    if len(knots) < 2:
        return knots
    padded = np.concatenate([[2 * knots[0] - knots[1]], knots, [2 * knots[-1] - knots[-2]]])
    roots = np.hypot(*np.diff(padded, axis=0).T)[:, None] ** 0.5  # of the steps' lengths
    before, step, after = (roots[n : len(knots) - 1 + n] for n in range(3))
    p0, p1, p2, p3 = (padded[n : len(knots) - 1 + n] for n in range(4))

    def control(past: np.ndarray, near: np.ndarray, far: np.ndarray, other: np.ndarray) -> np.ndarray:
        weight = 2 * other**2 + 3 * other * step + step**2
        return (other**2 * far - step**2 * past + weight * near) / (3 * other * (other + step))

    curves = np.stack([p1, control(p0, p1, p2, before), control(p3, p2, p1, after)], axis=1)
    return np.concatenate([curves.reshape(-1, 2), knots[-1:]])


def smooth(stroke: np.ndarray, pieces: int = 4) -> np.ndarray:
    """A stroke (n, 2) with each step replaced by `pieces` straight ones along its curve, see `beziers`."""
    places = beziers(stroke)
    if len(places) <= 4:  # a single step is straight
        return places[[0, -1][: len(places)]]
    at = (np.arange(pieces) / pieces)[:, None]
    p0, p1, p2, p3 = (places[n : len(places) - 3 + n : 3, None] for n in range(4))
    curve = (1 - at) ** 3 * p0 + 3 * at * (1 - at) ** 2 * p1 + 3 * at**2 * (1 - at) * p2 + at**3 * p3
    return np.concatenate([curve.reshape(-1, 2), places[-1:]])


def simplify(stroke: np.ndarray, tolerance: float) -> np.ndarray:
    """Those points of a stroke (n, 2), both ends among them, that keep it within `tolerance` (Douglas-Peucker)."""
    kept, waiting = {0, len(stroke) - 1}, [(0, len(stroke) - 1)]
    while waiting:
        first, last = waiting.pop()
        chord, inner = stroke[last] - stroke[first], stroke[first + 1 : last] - stroke[first]
        share = np.clip(inner @ chord / max(chord @ chord, 1e-12), 0, 1)
        off = np.hypot(*(inner - share[:, None] * chord).T)
        if len(off) and off.max() > tolerance:
            farthest = first + 1 + int(off.argmax())
            kept.add(farthest)
            waiting += [(first, farthest), (farthest, last)]
    return stroke[sorted(kept)]
