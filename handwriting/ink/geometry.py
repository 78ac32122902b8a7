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

Ink is strokes, a list of positions (n, 2) in any unit, x to the right and y downwards. All heights are in the unit of
the ink, but for `USUAL_X_HEIGHT`. The pen turns upwards at the baseline and at the ends of descenders, downwards at the
x-height and at the tops of ascenders: both lines go through most of these places.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from handwriting.strokes import USUAL_STEP, to_points

USUAL_X_HEIGHT = 130.0  # whiteboard units: the median of recorded lines, as `find_level` measures it
DOWNSTROKE = np.radians(50)  # from the vertical, once the slant is out: what is flatter is no downstroke


def segments(strokes: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The middles (m, 2) and the steps (m, 2) of all steps within strokes."""
    middles = [(stroke[1:] + stroke[:-1]) / 2 for stroke in strokes]
    steps = [np.diff(stroke, axis=0) for stroke in strokes]
    return np.concatenate([*middles, np.zeros((0, 2))]), np.concatenate([*steps, np.zeros((0, 2))])


def turning_points(y: np.ndarray, least: float) -> tuple[list[int], list[int]]:
    """Where a stroke's y (n,) turns: the places of its tops and of its bottoms, each `least` off the one before.

    The ends of the stroke count, unless the whole stroke is flatter than `least`.
    """
    tops, bottoms = [], []
    moving = np.sign(np.diff(y))
    places = [0, *(np.flatnonzero(moving[1:] != moving[:-1]) + 1).tolist(), len(y) - 1]  # of all turns, and the ends
    high = low = 0  # places of the least and the greatest y since the last turn that counts
    direction = 0  # 1: going down the page
    for place, value in zip(places, y[places].tolist(), strict=True):
        high = place if value < y[high] else high
        low = place if value > y[low] else low
        if direction <= 0 and value - y[high] >= least:
            tops.append(high)
            direction, low = 1, place
        elif direction >= 0 and y[low] - value >= least:
            bottoms.append(low)
            direction, high = -1, place
    if direction:
        (bottoms if direction > 0 else tops).append(low if direction > 0 else high)
    return tops, bottoms


def all_turns(strokes: list[np.ndarray], least: float) -> tuple[np.ndarray, np.ndarray]:
    """The tops (m, 2) and bottoms (k, 2) of all strokes, see `turning_points`."""
    found = [(stroke, turning_points(stroke[:, 1], least)) for stroke in strokes]
    none = np.zeros((0, 2))
    tops, bottoms = (np.concatenate([none, *(stroke[turns[kind]] for stroke, turns in found)]) for kind in (0, 1))
    return tops, bottoms


@dataclass(frozen=True)
class Level:
    """Where a line of ink stands: its slope, the baseline when that is out, and its x-height, in the ink's unit."""

    slope: float  # of the baseline, y by x
    x: np.ndarray  # (k,) places along the levelled line, ascending
    baseline: np.ndarray  # (k,) y of the levelled baseline there
    x_height: float

    def apply(self, positions: np.ndarray) -> np.ndarray:
        """Positions (n, 2) turned by the slope, and moved up or down so that the baseline is y = 0 all along."""
        turned = turn(positions, self.slope)
        turned[:, 1] -= np.interp(turned[:, 0], self.x, self.baseline)
        return turned

    def undo(self, positions: np.ndarray) -> np.ndarray:
        """Positions (n, 2) of the level line -> of the ink: what `apply` takes them from."""
        y = positions[:, 1] + np.interp(positions[:, 0], self.x, self.baseline)
        return turn(np.column_stack([positions[:, 0], y]), -self.slope)


def turn(positions: np.ndarray, slope: float) -> np.ndarray:
    """Positions (n, 2) turned about the origin so that a line of this slope becomes level."""
    cos, sin = np.cos(np.arctan(slope)), np.sin(np.arctan(slope))
    return positions @ np.array([[cos, -sin], [sin, cos]])


def find_level(strokes: list[np.ndarray], x_height: float | None = None) -> Level:
    """Measure slope, baseline and x-height of one line of ink. Raises ValueError for ink without any extent.

    The baseline goes through most of the places where the pen turns upwards, not those of descenders. Its slope is
    taken first, then what is left, which changes slowly along the line. The x-height is the median height of the places
    where the pen turns downwards, which for most letters is their top. Where it is known, as for a line of a few
    characters on a page of a hand, give it.
    """
    everything = np.concatenate(strokes)
    extent = np.ptp(everything, axis=0)
    if not extent.any():
        raise ValueError("its ink has no extent")
    slope = rough_slope(strokes) if extent[0] > 2 * extent[1] else 0.0
    least_unit = extent.max() / 500  # no line has more characters
    unit = max(x_height or core_height([turn(stroke, slope) for stroke in strokes]), least_unit)
    for _ in range(2):
        _, bottoms = all_turns([turn(stroke, slope) for stroke in strokes], 0.35 * unit)
        slope = float(np.tan(np.arctan(slope) + np.arctan(fit_slope(bottoms, unit))))
        tops, bottoms = all_turns([turn(stroke, slope) for stroke in strokes], 0.35 * unit)
        x, baseline = local_baseline(bottoms, turn(everything, slope), unit)
        heights = np.interp(tops[:, 0], x, baseline) - tops[:, 1]
        heights = heights[heights > 0.35 * unit]
        if x_height is None and len(heights):
            unit = max(float(np.median(heights)), least_unit)
    return Level(slope, x, baseline, unit)


def rough_slope(strokes: list[np.ndarray]) -> float:
    """The slope of a straight line through all ink, each step weighted by its length."""
    middles, steps = segments(strokes)
    weights = np.hypot(*steps.T)
    if not weights.any():
        return 0.0
    x, y = (middles - np.average(middles, axis=0, weights=weights)).T
    spread = (weights * x**2).sum()
    return float((weights * x * y).sum() / spread) if spread else 0.0


def core_height(strokes: list[np.ndarray]) -> float:
    """A first guess of the x-height: the height that the middle half of the ink takes, of level strokes."""
    middles, steps = segments(strokes)
    lengths, order = np.hypot(*steps.T), np.argsort(middles[:, 1])
    height = 0.0
    if lengths.any():
        share = np.cumsum(lengths[order]) / lengths.sum()
        height = float(np.subtract(*np.interp([0.75, 0.25], share, middles[order, 1])))
    return height or float(np.ptp(np.concatenate(strokes), axis=0).max())


def fit_slope(bottoms: np.ndarray, unit: float) -> float:
    """The slope of a straight line through most of some bottoms (k, 2), where `unit` is about the x-height.

    The median of the slopes between all pairs (Theil and Sen), then least squares over the bottoms near that line. Ink
    that is short has no slope: it could be a single letter's.
    """
    if len(bottoms) < 4 or np.ptp(bottoms[:, 0]) < 4 * unit:
        return 0.0
    x, y = (bottoms - bottoms.mean(0)).T
    first, second = np.triu_indices(len(bottoms), 1)
    far = np.abs(x[first] - x[second]) > unit
    slope = float(np.median((y[first] - y[second])[far] / (x[first] - x[second])[far]))
    left = y - slope * x
    near = np.abs(left - np.median(left)) < 0.4 * unit
    if near.sum() < 4 or np.ptp(x[near]) < 4 * unit:
        return slope
    return float(np.polyfit(x[near], y[near], 1)[0])


def local_baseline(bottoms: np.ndarray, positions: np.ndarray, unit: float) -> tuple[np.ndarray, np.ndarray]:
    """The baseline of level ink, positions (n, 2), as y (k,) at places x (k,); it changes slowly along the line.

    Each y is a weighted mean of the bottoms (m, 2) within some x-heights, `unit`, without those far from
    the baseline found in the round before: descenders. Where there are few bottoms it stays near that baseline.
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

    The shear that makes the downstrokes upright on the whole: among the steps that then go down the page within 50
    degrees of the vertical, as much goes to the right as to the left.
    """
    _, steps = segments(strokes)
    dx, dy = steps[steps[:, 1] > 0].T
    shear = 0.0
    for _ in range(20):
        upright = dx + shear * dy
        is_steep = np.abs(upright) < np.tan(DOWNSTROKE) * dy
        if not is_steep.any():
            return 0.0
        shear -= upright[is_steep].sum() / dy[is_steep].sum()
    return float(np.degrees(np.arctan(shear)))


@dataclass(frozen=True)
class HandMeasures:
    """What tells one hand from another, measured on one line of ink."""

    slant: float  # degrees from the vertical, positive to the right
    aspect: float  # the x-height by the mean advance of a character, blanks included
    spacing: float  # the median gap between neighbouring letters of a word, in x-heights; NaN without `characters`
    speed: float  # the mean step within strokes, in x-heights
    joins: float  # strokes for each character that is no blank: 1 and more for print, less for joined letters


def hand_measures(strokes: list[np.ndarray], text: str, characters: np.ndarray | None = None) -> HandMeasures:
    """Measure the hand of a written line: strokes (n, 2) in any unit, the text, and the character of each point (T,).

    Raises ValueError for ink without extent and for a text of blanks.
    """
    letters = len(text) - text.count(" ")
    if not letters:
        raise ValueError("its text has no characters")
    level = find_level(strokes)
    moved = [level.apply(stroke) for stroke in strokes]
    positions = np.concatenate(moved)
    advance = np.ptp(positions[:, 0]) / len(text)
    lengths = np.hypot(*segments(strokes)[1].T)
    return HandMeasures(
        slant=find_slant(moved),
        aspect=float(level.x_height / advance) if advance else np.nan,
        spacing=letter_gap(positions, text, characters) / level.x_height if characters is not None else np.nan,
        speed=float(lengths.mean() / level.x_height) if len(lengths) else np.nan,
        joins=len(strokes) / letters,
    )


def letter_gap(positions: np.ndarray, text: str, characters: np.ndarray) -> float:
    """The median gap between the ink of neighbouring letters, less than 0 where they overlap; NaN without any.

    positions (T, 2), and the place in `text` of each one's character (T,), -1 for none.
    """
    x = [positions[characters == place, 0] for place in range(len(text))]
    is_letter = [len(own) > 0 and not character.isspace() for own, character in zip(x, text, strict=True)]
    gaps = [x[n + 1].min() - x[n].max() for n in range(len(text) - 1) if is_letter[n] and is_letter[n + 1]]
    return float(np.median(gaps)) if gaps else np.nan


def to_writing_scale(
    strokes: list[np.ndarray], x_height: float = USUAL_X_HEIGHT, step: float = USUAL_STEP
) -> np.ndarray:
    """Bring ink from anywhere, strokes (n, 2) in any unit, y downwards, to what a recorded line is like.

    Its baseline becomes level, its x-height `x_height` whiteboard units, and its points lie `step` whiteboard units
    apart within strokes. Returns points (T, 3) float32 with (0, 0, 0) first, unless the first stroke is a dot. Raises
    ValueError for ink without extent.
    """
    level = find_level(strokes)
    scale = x_height / level.x_height
    return to_points([resample(level.apply(stroke) * scale, step) for stroke in strokes])


def resample(stroke: np.ndarray, step: float) -> np.ndarray:
    """A stroke (n, 2) with points `step` apart along it, as nearly as leaves both ends where they are.

    A stroke shorter than half a step is two points, or one if it has no length.
    """
    along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(stroke, axis=0).T))])
    if not along[-1]:
        return stroke[:1]
    at = np.linspace(0, along[-1], max(1, round(along[-1] / step)) + 1)
    return np.column_stack([np.interp(at, along, stroke[:, axis]) for axis in (0, 1)])


def smooth(stroke: np.ndarray, pieces: int = 4) -> np.ndarray:
    """A stroke (n, 2) as a centripetal Catmull-Rom spline through its points, each step cut into `pieces`.

    By Barry and Goldman's recursion; centripetal, so that it makes no loops of its own (Yuksel et al. 2011). Points
    that coincide with the one before are left out.
    """
    moves = np.concatenate([[True], np.diff(stroke, axis=0).any(axis=1)])
    knots = stroke[moves]
    if len(knots) < 3:
        return knots
    padded = np.concatenate([[2 * knots[0] - knots[1]], knots, [2 * knots[-1] - knots[-2]]])
    times = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(padded, axis=0).T) ** 0.5)])
    last = len(padded) - 3  # curves, one for each step
    share = np.arange(pieces) / pieces
    at = times[1 : last + 1, None] * (1 - share) + times[2 : last + 2, None] * share  # (last, pieces)
    level = [padded[k : k + last, None] for k in range(4)]
    for degree in (1, 2, 3):
        mixed = []
        for k in range(4 - degree):
            first, second = (1, 2) if degree == 3 else (k, k + degree)
            begin, end = times[first : first + last, None], times[second : second + last, None]
            weight = ((at - begin) / (end - begin))[..., None]
            mixed.append((1 - weight) * level[k] + weight * level[k + 1])
        level = mixed
    return np.concatenate([level[0].reshape(-1, 2), knots[-1:]])
