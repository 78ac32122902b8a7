"""benchmarks/styles.py: how hands are changed, and told apart."""

import numpy as np
import pytest
from made_up_ink import write_line

from benchmarks import styles
from handwriting.ink.geometry import hand_measures


def test_shear_and_width_are_those_of_the_hand():
    hand = write_line("ab ca cab")
    before = hand_measures(hand.strokes, hand.text)
    sheared = styles.reshaped(hand, 0.4, 1.0)
    after = hand_measures(sheared.strokes, hand.text)
    assert np.tan(np.radians(after.slant)) - np.tan(np.radians(before.slant)) == pytest.approx(0.4, abs=0.1)
    wide = styles.reshaped(hand, 0.0, 1.3)
    assert hand_measures(wide.strokes, hand.text).aspect == pytest.approx(before.aspect / 1.3, rel=0.02)
    assert np.array_equal(sheared.points[:, 1:], hand.points[:, 1:])


def test_the_nearest_hand_is_that_of_like_measures():
    """By the second measure the first lines are nearer to the other hand, but lines of one hand differ much in it."""
    hands = np.array([[0.0, 0.0], [10.0, 5.0]])
    means = np.array([[1.0, 5.0], [9.0, 5.0]])
    assert styles.nearest_hands(hands, means, np.array([1.0, 10.0])).tolist() == [0, 1]
    assert styles.nearest_hands(hands, means, np.array([10.0, 1.0])).tolist() == [1, 1]


def test_the_sentences_are_spread_over_all():
    texts = styles.read_sentences(40)
    whole = (styles.HERE / "sentences.txt").read_text(encoding="utf-8").splitlines()
    assert len(set(texts)) == 40 and texts[0] == whole[0] and whole.index(texts[-1]) > 0.9 * len(whole)
