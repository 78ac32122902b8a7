"""benchmarks/styles.py and benchmarks/hands.py: how hands are measured, chosen and told apart."""

import numpy as np
import pytest
from made_up_ink import write_line

from benchmarks import hands, styles
from handwriting.ink.formats import Ink


def test_measures_of_a_hand():
    text = "some words in a hand"
    near, wide, joined = (
        styles.measures(write_line(text, **{"gap": 0.3} | given)) for given in ({}, {"gap": 0.9}, {"joined": True})
    )
    assert near[1] > 1.3 * wide[1]
    assert near[2] == 17 / 16 and joined[2] == 5 / 16  # one stroke each of 16 letters, and a dot


def test_measures_of_a_hand_do_not_hang_on_the_unit():
    text = "the quick dog jumps high up again"
    small, large = (styles.measures(write_line(text, scale=scale)) for scale in (0.02, 1.0))
    assert small == pytest.approx(large, rel=1e-3, abs=1e-2)


def test_shear_and_width_are_those_of_the_hand():
    hand = write_line("ab ca cab")
    sheared, wide = styles.reshaped(hand, 0.4, 1.0), styles.reshaped(hand, 0.0, 1.3)
    slant, aspect, _ = styles.measures(hand)
    assert np.tan(np.radians(styles.measures(sheared)[0])) - np.tan(np.radians(slant)) == pytest.approx(0.4, abs=0.1)
    assert styles.measures(wide)[1] == pytest.approx(aspect / 1.3, rel=0.02)


def test_letters_that_shrink_are_found():
    ink = write_line("a warm room was here again")
    first, second = styles.letter_heights(ink)
    assert np.median(second) == pytest.approx(np.median(first), rel=0.02) and len(first) > 5 < len(second)
    y = np.cumsum(ink.points[:, 1], dtype=float) * np.where(ink.characters * 2 >= len(ink.text), 0.6, 1.0)
    shrunk = Ink(np.column_stack([ink.points[:, 0], np.diff(y, prepend=0), ink.points[:, 2]]), ink.text, ink.characters)
    first, second = styles.letter_heights(shrunk)
    assert np.median(second) == pytest.approx(0.6 * np.median(first), rel=0.02)


def test_chosen_hands_are_good_and_far_apart(monkeypatch):
    """Six hands on a line: those at the ends and in the middle, but not the one that is read badly or shrinks."""
    places, rates = [0.0, 0.1, 5.0, 9.0, 10.0, 4.0], [0.0, 0.0, 0.0, 0.0, 0.5, 0.0]
    inks = [Ink(write_line("ab").points, "ab", seed=n) for n in range(6)]

    def tried(ink, seed, count):
        return styles.Tried(rates[ink.seed], 0.5 * (ink.seed == 2), np.array([[places[ink.seed], 0.0]] * 3))

    monkeypatch.setattr(styles, "try_hand", tried)
    assert {ink.seed for ink in styles.choose_hands(inks, 3, 0)} == {0, 3, 5}


def test_places_among_forms():
    """A judge whose vectors are numbers on a line: ranks and the nearest five as a plain loop counts them."""
    means = np.arange(8.0)[:, None]
    gallery = hands.Gallery([], [], means)
    vectors = np.array([0.1, 1.2, 7.0, 3.3, 4.0, 5.4, 6.0, 0.0])[:, None]
    found, ranks, near = hands.places(vectors, gallery), [], []
    for n, vector in enumerate(vectors[:, 0]):
        distances = [abs(vector - mean) for mean in means[:, 0]]
        ranks.append(sum(distances[m] > distances[n] for m in range(8) if m != n) / 7)
        near.append(sorted(distances).index(distances[n]) < 5)
    assert found["rank"] == pytest.approx(np.mean(ranks)) and found["top 5"] == pytest.approx(np.mean(near))
    assert hands.reached(vectors, gallery) == len({0, 1, 7, 3, 4, 5, 6})
    angles = np.array([0.0, np.pi / 2, np.pi])
    assert hands.spread(np.column_stack([np.cos(angles), np.sin(angles)])) == pytest.approx((1 + 1 + 2) / 3)
