"""Baseline, x-height, slant and scale, on ink of which they are known."""

import numpy as np
import pytest
from made_up_ink import write_line

from handwriting.ink.geometry import (
    USUAL_X_HEIGHT,
    find_level,
    find_slant,
    hand_aspect,
    resample,
    segments,
    smooth,
    to_writing_scale,
    turning_points,
)
from handwriting.strokes import USUAL_STEP, to_points, to_strokes

TEXT = "the quick dog jumps high up again"


def test_strokes_become_points_and_strokes_again():
    strokes = [np.array([[5.0, 7], [6, 9]]), np.array([[1.0, 2]]), np.array([[0.0, 0], [3, 3], [4, 4]])]
    points = to_points(strokes)
    assert points[0].tolist() == [0, 0, 0] and points[:, 2].tolist() == [0, 1, 1, 0, 0, 1]
    for back, stroke in zip(to_strokes(points), strokes, strict=True):
        np.testing.assert_allclose(back + [5, 7], stroke)


def test_turning_points_overlook_small_wiggles():
    wiggly, flat = ([0, 5, 10, 9.5, 10.2, 3, 0, 4, 8], [0, 0.5, 0, 0.7])
    first, second = (np.column_stack([np.arange(len(y)), y]) for y in (wiggly, flat))
    tops, bottoms = turning_points([first, second], 2.0)
    assert (tops.tolist(), bottoms.tolist()) == ([[0, 0], [6, 0]], [[4, 10.2], [8, 8]])
    assert [len(turns) for turns in turning_points([second], 2.0)] == [0, 0]


@pytest.mark.parametrize("slope", [-0.3, -0.05, 0.0, 0.1, 0.25])
@pytest.mark.parametrize("slant", [-15, 0, 25])
def test_slope_baseline_and_x_height_are_found(slope, slant):
    ink = write_line(TEXT, x_height=80, slope=slope, slant=slant)
    level = find_level(ink.strokes)
    assert level.slope == pytest.approx(slope, abs=0.01)
    assert level.x_height == pytest.approx(80, rel=0.08)
    moved = [level.apply(stroke) for stroke in ink.strokes]
    feet = [stroke[:, 1].max() for stroke, c in zip(moved, TEXT.replace(" ", "").replace("i", "i."), strict=True)
            if c not in "gjpqy."]  # fmt: skip
    assert np.abs(feet).max() < 8  # a tenth of the x-height, although descenders go down by one


def test_letters_written_twice_do_not_tilt_the_baseline():
    strokes = write_line(TEXT, slope=0.1).strokes
    assert find_level(strokes + strokes).slope == pytest.approx(0.1, abs=0.01)


def test_slow_waves_of_the_baseline_are_taken_out():
    ink = write_line(TEXT * 2, wave=0.5)
    level = find_level(ink.strokes)
    feet = np.array([level.apply(stroke)[-1, 1] for stroke in ink.strokes])
    before = np.array([stroke[-1, 1] for stroke in ink.strokes])
    keep = [c != "." for c in (TEXT * 2).replace(" ", "").replace("i", "i.")]
    assert feet[keep].std() < 0.4 * before[keep].std()


@pytest.mark.parametrize("text", ["a", "it", "No", "1"])
def test_a_few_letters_stay_upright(text):
    assert find_level(write_line(text, slant=20).strokes).slope == 0
    assert find_level(write_line(text).strokes, x_height=100).x_height == 100


def test_flat_ink_is_measured_and_a_dot_is_not():
    level = find_level([np.array([[0.0, 0], [50, 1e-9], [900, 0]])])
    assert np.isfinite(level.x_height) and level.x_height > 0 and len(level.x) < 2000
    with pytest.raises(ValueError, match="extent"):
        find_level([np.zeros((3, 2))])


@pytest.mark.parametrize("slant", [-25, -10, 0, 12, 30])
@pytest.mark.parametrize("joined", [False, True])
def test_slant_is_found(slant, joined):
    strokes = write_line(TEXT, slant=slant, joined=joined).strokes
    assert find_slant(strokes) == pytest.approx(slant, abs=3)
    assert find_slant([stroke * 0.01 for stroke in strokes]) == pytest.approx(slant, abs=3)


def test_slant_of_ink_without_downstrokes_is_zero():
    assert find_slant([np.array([[0.0, 0], [10, 0]])]) == 0
    assert find_slant([np.array([[0.0, 0], [0, -10]])]) == 0


def test_a_hand_needs_a_text():
    with pytest.raises(ValueError, match="no characters"):
        hand_aspect(write_line("ab").strokes, "  ")


@pytest.mark.parametrize("scale", [0.02, 1.0, 300.0])
def test_foreign_ink_comes_to_the_scale_of_recorded_lines(scale):
    ink = write_line(TEXT, slope=0.2, scale=scale)
    points = to_writing_scale(ink.strokes)
    assert points.dtype == np.float32 and points[0].tolist() == [0, 0, 0]
    strokes = to_strokes(points)
    assert len(strokes) == len(ink.strokes)
    level = find_level(strokes)
    assert level.x_height == pytest.approx(USUAL_X_HEIGHT, rel=0.05) and abs(level.slope) < 0.01
    steps = np.hypot(*segments(strokes)[1].T)
    assert np.median(steps) == pytest.approx(USUAL_STEP, rel=0.1) and steps.max() < 1.5 * USUAL_STEP


def test_resampling_keeps_both_ends_and_the_way():
    stroke = np.array([[0.0, 0], [100, 0], [100, 55]])
    new = resample(stroke, 10)
    np.testing.assert_allclose(new[[0, -1]], stroke[[0, -1]])
    assert len(new) == 17 and all(y == 0 or x == 100 or (x > 90 and y < 10) for x, y in new)
    assert len(resample(np.zeros((4, 2)), 10)) == 1
    assert len(resample(np.array([[0.0, 0], [1, 0]]), 10)) == 2


def test_smoothing_goes_through_all_points_and_is_rounder():
    angles = np.linspace(0, 1.5 * np.pi, 10)
    stroke = 100 * np.column_stack([np.cos(angles), np.sin(angles)])
    curve = smooth(stroke, 8)
    np.testing.assert_allclose(curve[::8], stroke, atol=1e-9)
    middles = (stroke[1:] + stroke[:-1]) / 2
    inner = slice(8, -8)  # beyond the first and the last step, whose neighbours are made up
    assert np.abs(np.hypot(*curve[inner].T) - 100).max() < 0.3 * np.abs(np.hypot(*middles.T) - 100).max()


def test_smoothing_of_short_and_of_resting_strokes():
    assert len(smooth(np.zeros((1, 2)))) == 1
    assert len(smooth(np.zeros((5, 2)))) == 1
    line = np.array([[0.0, 0], [0, 0], [10, 10], [10, 10], [30, 30]])
    curve = smooth(line)
    assert np.isfinite(curve).all() and np.allclose(curve[:, 0], curve[:, 1])


def test_smoothing_of_uneven_points_makes_no_loops():
    corner = np.array([[0.0, 0], [100, 0], [101, 1], [101, 100]])
    curve = smooth(corner, 16)
    assert curve.min() > -4 and curve.max() < 104
