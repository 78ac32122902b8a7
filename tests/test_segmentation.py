"""benchmarks/segmentation.py: its alignment against all that there are, and its points against the recogniser's."""

import itertools

import numpy as np
import pytest
from made_up_ink import write_line

from benchmarks.segmentation import forced_alignment, resampled_places, shares
from handwriting.recogniser import BLANK, features, straighten
from handwriting.strokes import to_strokes


def best_by_trying_all(log_probabilities, labels):
    """The likeliest of all paths that read as the labels."""
    best, best_score = None, -np.inf
    for path in itertools.product(range(log_probabilities.shape[1]), repeat=len(log_probabilities)):
        read = [label for label, _ in itertools.groupby(path) if label != BLANK]
        score = log_probabilities[np.arange(len(path)), path].sum()
        if read == labels and score > best_score:
            best, best_score = path, score
    runs = [list(run) for label, run in itertools.groupby(range(len(best)), key=lambda t: best[t]) if label != BLANK]
    return [max(run, key=lambda t: log_probabilities[t, best[t]]) for run in runs]


@pytest.mark.parametrize("labels", [[1], [1, 2], [1, 1], [2, 2, 1]])
@pytest.mark.parametrize("seed", range(5))
def test_alignment_is_the_likeliest_of_all(labels, seed):
    scores = np.random.default_rng(seed).normal(0, 2, (6, 3))
    log_probabilities = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    assert forced_alignment(log_probabilities, labels).tolist() == best_by_trying_all(log_probabilities, labels)


def test_too_few_frames_are_told():
    with pytest.raises(ValueError, match="2 frames are too few"):
        forced_alignment(np.log(np.full((2, 3), 1 / 3)), [1, 1])


def test_places_are_those_of_the_points_that_the_reader_sees():
    ink = write_line("ab ca")
    places = resampled_places(ink.points)
    assert len(places) == len(features(ink.points)) and (np.diff(places) >= 0).all()
    strokes = straighten(to_strokes(ink.points))
    longest = max(np.hypot(*np.diff(stroke, axis=0).T).max() for stroke in strokes)
    heights = np.concatenate(strokes)[:, 1]
    assert np.abs(heights[places] - features(ink.points)[:, 4]).max() <= longest / 2 + 1e-6


def test_shares_count_hits_and_neighbours():
    assert shares(np.array([0, 1, 4, 9]), np.array([0, 2, 4, 5])) == (0.5, 0.75)
