"""benchmarks/styles.py: how hands are changed, and told apart."""

import numpy as np
import pytest
from made_up_ink import write_line

from benchmarks import styles
from handwriting.ink.formats import Ink


def test_measures_of_a_hand():
    text = "some words in a hand"
    near, wide, joined = (
        styles.measures(write_line(text, **{"gap": 0.3} | given)) for given in ({}, {"gap": 0.9}, {"joined": True})
    )
    assert near[2] == pytest.approx(0.3, abs=0.05) and wide[2] == pytest.approx(0.9, abs=0.08)
    assert near[1] > 1.3 * wide[1]
    assert near[4] == 17 / 16 and joined[4] == 5 / 16  # one stroke each of 16 letters, and a dot
    assert np.isnan(styles.measures(Ink(write_line(text).points, text))[2])


def test_measures_of_a_hand_do_not_hang_on_the_unit():
    text = "the quick dog jumps high up again"
    small, large = (styles.measures(write_line(text, scale=scale)) for scale in (0.02, 1.0))
    assert small == pytest.approx(large, rel=1e-3, abs=1e-2)


def test_shear_and_width_are_those_of_the_hand():
    hand = write_line("ab ca cab")
    sheared, wide = styles.reshaped(hand, 0.4, 1.0), styles.reshaped(hand, 0.0, 1.3)
    slant, aspect, *_ = styles.measures(hand)
    assert np.tan(np.radians(styles.measures(sheared)[0])) - np.tan(np.radians(slant)) == pytest.approx(0.4, abs=0.1)
    assert styles.measures(wide)[1] == pytest.approx(aspect / 1.3, rel=0.02)
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
