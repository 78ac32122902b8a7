"""Lines of made-up letters, cut into words and characters and put together again."""

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import repeat
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import CHARSET, ROOT, assert_refused, environment, make_dataset
from test_model import make_model

from handwriting import compose, cutting
from handwriting.alphabet import Alphabet
from handwriting.checks import Verdict
from handwriting.compose import add_lines, choose_glyph, compose_line, join
from handwriting.cutting import Cutting, cut_line, cut_lines, cut_words, give_back, marks_first
from handwriting.data.dataset import load_dataset, save_dataset
from handwriting.hands import random_vector
from handwriting.program import InputError
from handwriting.sampling import Line, Sampler
from handwriting.strokes import to_points, to_strokes
from handwriting.writer import Network, load_network

TEXT = "man 57 one, wave"
CROSS = [np.array([[0, -1], [0.4, -0.5], [0.8, 0]]), np.array([[0.8, -1], [0.4, -0.5], [0, 0]])]
SLOPE, X_HEIGHT, SLANT = 0.05, 100.0, 0.3


def write_character(character: str) -> np.ndarray:
    """A stroke (n, 2) in x-heights, y downwards from the baseline: zigzags, those of digits twice as high.

    A 5 has a flag.
    """
    height = {",": 0.2}.get(character, 2.0 if character.isdigit() else 1.0)
    y = -height * np.array([0, 0.5, 1, 0.5, 0, 0.5, 1, 0.5, 0])
    x = np.linspace(0, 0.8, len(y))
    if character == "5":
        x, y = np.insert(x, 7, x[6] + 0.35), np.insert(y, 7, y[6])
    return np.column_stack([x - SLANT * y, y])


def cutting_of(text: str, *strokes: np.ndarray) -> Cutting:
    """Ink of strokes (n, 2); without any, those of a character."""
    strokes = strokes or (write_character(text),)
    ends = np.concatenate([np.arange(len(stroke)) == len(stroke) - 1 for stroke in strokes])
    return Cutting(text, np.concatenate(strokes).astype(float), ends, SLANT)


def write_line(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Points (T, 3) in whiteboard units of a slanted, sloping line, and each point's character (T,)."""
    strokes, characters = [], []
    for place, character in enumerate(text):
        for stroke in CROSS if character == "x" else [write_character(character)] if character != " " else []:
            strokes.append(stroke + [place * 1.1, 0])
            characters += [place] * len(stroke)
    positions = np.concatenate(strokes) * X_HEIGHT
    positions[:, 1] += SLOPE * positions[:, 0]
    ends = np.zeros(len(positions))
    ends[np.cumsum([len(stroke) for stroke in strokes]) - 1] = 1
    return np.column_stack([np.diff(positions, axis=0, prepend=positions[:1]), ends]), np.array(characters)


@pytest.fixture
def cut():
    points, characters = write_line(TEXT)
    return cut_line(points, characters, TEXT, TEXT)


def test_a_line_is_cut_into_words_and_glyphs(cut):
    assert [word.text for word in cut.words] == TEXT.split()
    assert [glyph.text for glyph in cut.glyphs] == ["5", "7", ","]
    assert cut_line(*write_line(TEXT), TEXT, TEXT, "a01-000u-03").name == "a01-000u-03"
    assert cut.slope == pytest.approx(SLOPE, abs=0.02) and cut.x_height == pytest.approx(X_HEIGHT, rel=0.1)
    np.testing.assert_allclose(cut.gaps, 1.4, atol=0.5)
    assert len(cut.gaps) == 3
    assert np.ptp(cut.glyphs[0].positions[:, 1]) == pytest.approx(2.0, rel=0.1)  # x-heights
    for piece in [*cut.words, *cut.glyphs]:  # the ink of each, wherever it stands in the line
        written = np.concatenate([write_character(c) + [place * 1.1, 0] for place, c in enumerate(piece.text)])
        moved = [ink[:, 0] - ink[0, 0] for ink in (piece.positions, written)]
        np.testing.assert_allclose(*moved, atol=0.3)
        assert piece.ends.sum() == len(piece.text) and piece.ends[-1]


def test_glyphs_are_those_read_right_only():
    points, characters = write_line(TEXT)
    for read, found in (
        ("man 17 one, wave", "7,"), ("an 5 one,, wave", "5,"), ("a 57 one wave", "57"), ("", ""),
        ("xman 57 1e; wave", "57"),
    ):  # fmt: skip
        assert [glyph.text for glyph in cut_line(points, characters, TEXT, read).glyphs] == list(found)


def test_what_shares_strokes_is_not_cut():
    points, characters = write_line(TEXT)
    points[:, 2] = 0
    points[-1, 2] = 1  # one stroke
    line = cut_line(points, characters, TEXT, TEXT)
    assert line.words == [] and line.glyphs == []


def test_a_bar_written_late_belongs_to_the_word_that_it_crosses():
    """The window is on the next word already when the pen goes back."""
    line = cutting_of("f ab", *np.array([[[0.0, 0], [2, 0]], [[0.5, -1], [1, -1]], [[3.0, 0], [4, 0]]]))
    counts = np.array([[2, 0, 0, 0], [0, 0, 2, 0], [0, 0, 0, 2]])
    strokes = np.array([0, 0, 1, 1, 2, 2])
    words, gaps = cut_words(line, strokes, give_back(counts, line.positions[:, 0], strokes))
    assert [word.ends.sum() for word in words] == [2, 1] and gaps == [1.0]


def test_a_flag_written_late_belongs_to_the_character_that_it_stands_over():
    counts, strokes = np.array([[2, 0], [0, 2], [0, 3]]), np.array([0, 0, 1, 1, 2, 2, 2])
    given = give_back(counts, np.array([0.0, 2, 1, 2.5, 3, 4, 5]), strokes)
    np.testing.assert_array_equal(given, [[2, 0], [2, 0], [0, 3]])
    np.testing.assert_array_equal(counts[1], [0, 2])  # what is given stays as it is


def test_an_x_becomes_a_capital():
    text = "man axe, waves"
    points, characters = write_line(text)
    (glyph,) = (glyph for glyph in cut_line(points, characters, text, text).glyphs if glyph.text != ",")
    assert glyph.text == "X" and glyph.ends.sum() == 2
    assert glyph.positions[0, 0] > glyph.positions[2, 0]  # the rising stroke comes first
    assert np.ptp(glyph.positions[:, 1]) == pytest.approx(1.9, rel=0.1) and abs(glyph.positions[:, 1].max()) < 0.2
    points[np.flatnonzero(characters == text.index("x"))[2], 2] = 0  # both strokes in one
    assert [glyph.text for glyph in cut_line(points, characters, text, text).glyphs] == [","]


def test_a_5_without_its_flag_is_no_glyph():
    points, characters = write_line(TEXT)
    first = np.flatnonzero(characters == TEXT.index("5"))[0]
    points[first + 8, 0] += points[first + 7, 0]  # the point behind the flag's
    without = np.delete(points, first + 7, axis=0), np.delete(characters, first + 7)
    assert "5" not in [glyph.text for glyph in cut_line(*without, TEXT, TEXT).glyphs]


def slant_of(glyph: Cutting) -> float:
    """x a unit of y upwards, by least squares over its steep steps."""
    dx, dy = np.diff(glyph.positions, axis=0).T
    return -(dx @ dy) / (dy @ dy)


BODY, FLAG = np.array([[0, -2], [0, -1], [0.8, -0.5], [0, 0]]), np.array([[0.1, -2.1], [0.5, -2.1], [1, -2.2]])


FALL, RISE = CROSS  # of an x


@pytest.mark.parametrize(
    ("text", "strokes", "places", "wanted"),
    [
        ("5", [BODY, FLAG], [0, 0], [FLAG[::-1], BODY]),
        ("57", [BODY, FLAG, BODY + [2, 0]], [0, 1, 1], [FLAG[::-1], BODY]),  # the window is ahead
        ("7", [BODY, FLAG], [0, 0], None), ("5", [FLAG, BODY], [0, 0], None), ("5", [BODY], [0], None),
        ("5", [BODY, FLAG + [0, 2]], [0, 0], None), ("5", [BODY, FLAG @ [[0, 1], [1, 0]] + [2.2, -2]], [0, 0], None),
        ("5", [BODY, FLAG[::-1]], [0, 0], None), ("5", [BODY, BODY], [0, 0], None),
        ("5", [BODY, FLAG, FLAG + [0.9, -0.1]], [0, 0, 0], [FLAG[::-1], BODY]),
    ],
)  # fmt: skip
def test_the_flag_of_a_5_comes_first_in_one_stroke_with_its_body(text, strokes, places, wanted):
    wanted = strokes if wanted is None else [np.vstack(wanted), *strokes[2:]]
    assert marked_first(text, strokes, places)[0] == [stroke.tolist() for stroke in wanted]


@pytest.mark.parametrize("rise", [RISE, RISE[::-1]], ids=["from above", "from below"])
@pytest.mark.parametrize(
    ("text", "move", "places", "order"),
    [
        ("ox", [0, 0], [1, 1], [1, 0]), ("Xo", [0, 0], [0, 1], [1, 0]),  # the window is ahead
        ("at", [0, 0], [1, 1], None), ("ox", [2, 0], [1, 1], None),
    ],
)  # fmt: skip
def test_an_x_begins_at_the_upper_right(text, move, places, order, rise):
    strokes = [FALL, rise + move, FALL + [3, 0]]
    found, owners = marked_first(text, strokes, [*places, 1])
    assert found == [stroke.tolist() for stroke in ([RISE, FALL, strokes[2]] if order else strokes)]
    assert owners.tolist() == np.repeat([places[0], places[0] if order else places[1], 1], 3).tolist()


@pytest.mark.parametrize("rise", [RISE, RISE[::-1]], ids=["from above", "from below"])
def test_an_x_that_is_joined_to_a_letter_is_begun_with_it(rise):
    joined = np.vstack([FALL - [1, 0], FALL])
    ends = np.isin(np.arange(9), [5, 8])
    positions, ends, owners = marks_first(np.vstack([joined, rise]), ends, np.repeat([0, 1, 2], 3), "exe")
    np.testing.assert_array_equal(positions, np.vstack([joined, RISE]))
    assert np.flatnonzero(ends).tolist() == [5, 8] and owners.tolist() == [0] * 3 + [1] * 6


def test_what_crosses_an_x_must_rise():
    """Neither its falling stroke after the other, nor a bar, nor a stroke that falls is brought forward."""
    for second in (FALL, np.array([[0, -0.4], [0.4, -0.5], [0.8, -0.6]])):
        assert marked_first("x", [RISE, second], [0, 0])[0] == [RISE.tolist(), second.tolist()]


def marked_first(text: str, strokes: list[np.ndarray], places: list[int]) -> tuple[list[list], np.ndarray]:
    """Strokes (n, 2), each of the character at its place, after `marks_first`, and the places of all points."""
    lengths = [len(stroke) for stroke in strokes]
    ends = np.isin(np.arange(sum(lengths)), np.cumsum(lengths) - 1)
    positions, ends, owners = marks_first(np.concatenate(strokes), ends, np.repeat(places, lengths), text)
    assert ends[-1]
    return [stroke.tolist() for stroke in np.split(positions, np.flatnonzero(ends[:-1]) + 1)], owners


def test_a_glyph_takes_the_slant_and_height_asked_for():
    glyph = cutting_of("5")
    rng = np.random.default_rng(0)
    found = [choose_glyph([glyph], 0.0, 1.5, rng) for _ in range(200)]
    upright = slant_of(glyph._replace(positions=glyph.positions @ [[1, 0], [SLANT, 1]]))
    assert np.mean([slant_of(piece) for piece in found]) == pytest.approx(upright, abs=0.03)
    assert np.mean([np.ptp(piece.positions[:, 1]) for piece in found]) == pytest.approx(1.5, rel=0.02)
    capitals = [choose_glyph([cutting_of("A")], 0.0, 1.5, rng) for _ in range(200)]
    assert np.mean([np.ptp(piece.positions[:, 1]) for piece in capitals]) == pytest.approx(1.8, rel=0.02)


def test_the_slant_of_a_line_is_measured(cut):
    upright = slant_of(cutting_of("5")._replace(positions=write_character("5") @ [[1, 0], [SLANT, 1]]))
    assert cut.words[0].slant - upright == pytest.approx(SLANT, abs=0.1)


def test_composed_lines_say_their_text_at_the_size_of_their_base(cut):
    glyphs = {character: [cutting_of(character)] for character in "0123456789:/.,-()"}
    rng = np.random.default_rng(0)
    for _ in range(20):
        offsets, ends, text, form = compose_line(cut._replace(name="a01-000-07"), glyphs, rng, keep_rests=False)
        assert 0 < len(text) <= compose.MAX_CHARACTERS + 10 and any(c.isdigit() for c in text)
        assert ends.sum() == len(text.replace(" ", ""))  # each of these characters has one stroke
        assert offsets.dtype == np.int16 and not offsets[0].any() and form == "a01-000"
        strokes = to_strokes(np.column_stack([offsets, ends]))
        starts = np.array([stroke[0] for stroke in strokes])
        if len(starts) > 3:
            assert np.polyfit(*starts.T, 1)[0] == pytest.approx(SLOPE, abs=0.05)


def test_pieces_stand_beside_each_other():
    first, second = (cutting_of("a", np.array([[left, 0], [left + 2.0, 1]])) for left in (0, 9))
    both = join([first, second], np.array([0.5]), " ")
    assert both.text == "a a" and both.ends.tolist() == [False, True] * 2
    assert both.positions.tolist() == [[0, 0], [2, 1], [2.5, 0], [4.5, 1]]


def test_tokens_are_what_their_templates_say():
    rng = np.random.default_rng(0)
    made = {compose.random_token(rng) for _ in range(20_000)}
    assert all(set(token) <= cutting.TOKEN_CHARACTERS for token in made)
    assert {str(number) for number in range(100)} <= made and {"0.05", "(7)", "9:05"} & made
    days = [token.split("/") for token in made if "/" in token]
    assert {int(month) for _, month, *_ in days} == set(range(1, 13)) and {int(day[0]) for day in days} == set(
        range(1, 32)
    )
    times = [token.partition(":") for token in made if ":" in token]
    assert {int(hour) for hour, _, _ in times} == set(range(24)) and {m for _, _, m in times} == {
        f"{n:02}" for n in range(60)
    }


def test_new_lines_are_training_lines_and_nothing_else_changes(tmp_path):
    dataset = make_dataset()
    offsets, ends = np.array([[0, 0], [5, 5], [3, 1]], dtype=np.int16), np.array([False, False, True])
    more = add_lines(
        dataset, iter([[(offsets, ends, "7a", "composed"), (offsets, ends, "77", "a01-002")] * 5]), 2, "composed"
    )
    assert more.names[-2:].tolist() == ["composed-composed00000", "a01-002-composed00001"]
    save_dataset(more, tmp_path / "more.npz")
    loaded = load_dataset(tmp_path / "more.npz")
    assert list(loaded.lines("train", True)[-2:]) == [40, 41] and loaded.texts[41] == "77"
    np.testing.assert_array_equal(loaded.points(40)[:, :2], offsets)
    assert (loaded.char_counts - dataset.char_counts).tolist() == [0, 3, 0, 1, 0, 0]
    assert (loaded.mean == dataset.mean).all() and (
        loaded.lines("validation", True) == dataset.lines("validation", True)
    ).all()


class SpellingReader:
    """Reads the ink of `spell`."""

    config = SimpleNamespace(charset=[*CHARSET, "?", "x", "y", "z"])

    @staticmethod
    def read(lines, rng=None):
        return ["".join(chr(abs(round(float(x)))) for x in line[1:, 0]) for line in lines]


def test_alignment_follows_the_window(monkeypatch):
    dataset, model = make_dataset(), make_model(1, 6).float()
    with torch.no_grad():
        model.layers[0].window.weight.zero_()
        model.layers[0].window.bias.copy_(torch.tensor([0.0, 0.0, np.log(1 / 6)]).repeat_interleave(4))
    network = Network(model, Sampler(model), Alphabet("".join(dataset.charset)), "")
    monkeypatch.setattr(cutting, "cut_line", lambda *given: given)
    lines = dataset.lines("train", True)[:5]
    cut = cut_lines(network, SpellingReader, dataset, lines)
    for line, (points, aligned, text, read, name) in zip(lines, cut, strict=True):
        assert name == dataset.names[line]
        np.testing.assert_array_equal(points, dataset.points(line))
        assert text == dataset.texts[line] and read == SpellingReader.read([points])[0]
        length = dataset.starts[line + 1] - dataset.starts[line]
        expected = np.clip(np.rint(np.arange(1, length) / 6), 1, len(text)) - 1
        assert len(aligned) == length
        assert (aligned[1:] == expected).mean() > 0.9  # six points a character; halves may be rounded either way


def test_texts_to_write_are_of_neighbouring_words_and_tokens(monkeypatch):
    monkeypatch.setattr(compose, "ODD_SHARE", 0.0)
    texts, rng = np.array(["we saw the old house by the river", "quite"]), np.random.default_rng(0)
    made = [compose.random_text(texts, {"j": 1.0}, rng) for _ in range(300)]
    assert all(0 < len(text) <= compose.MAX_CHARACTERS for text in made)
    words = [[word.lower() for word in text.split() if word.lower() in " ".join(texts).split()] for text in made]
    assert all(" ".join(found) in " ".join(texts) for found in words)
    tokens = [len(text.split()) - len(found) for text, found in zip(made, words, strict=True)]
    assert set(tokens) == {0, 1} and np.mean(tokens) == pytest.approx(compose.TOKEN_SHARE, abs=0.1)
    assert any("Quite" in text for text in made) and any("quite" in text for text in made)


def test_characters_that_are_read_wrong_come_into_texts_to_write():
    pairs = [("x", "t")] * 30 + [("x", "x")] * 60 + [("i", "i")] * 990 + [("", "e")] * 9 + [("7", "1")] * 9
    odd = compose.weaknesses(set("xiQ( 7"), pairs)
    assert odd == pytest.approx({"x": 0.31 / 0.511, "Q": 0.1 / 0.511, "(": 0.1 / 0.511, "i": 0.001 / 0.511})
    rng, texts = np.random.default_rng(0), np.array(["it was so"])
    count = Counter("".join(compose.random_text(texts, odd, rng) for _ in range(2000)))
    assert count["x"] > 2 * count["("] > 100 and count["Q"] > 100


@pytest.mark.parametrize(
    "character, wanted", [("?", {"was?"}), (")", {"(was)"}), ("&", {"&"}), ("j", {"jas", "wjs", "waj"}), ("Q", {"Qas"})]
)
def test_odd_characters_stand_where_a_text_has_them(character, wanted):
    rng = np.random.default_rng(0)
    assert {compose.odd_word("was", character, rng) for _ in range(40)} == wanted
    assert compose.odd_word("a_b", "?", rng) == "a_b?" and compose.odd_word("was", "_", rng) == "was_"


def spell(text: str, fault: str = "") -> Line:
    """Ink whose offsets are the characters' numbers, a hair off."""
    numbers = [ord(character) + 0.2 * (-1) ** n for n, character in enumerate(text)]
    points = np.array([(0, 0, 0), *((number, 7, 0) for number in numbers)], dtype=np.float32)
    points[-1, 2] = 1
    return Line(points, None, np.eye(len(text) + 1)[:-1], not fault, text, fault)


def add_written(characters, count, dataset):
    """With lines that a network of these characters writes; `write_checked` and `load_recogniser` are replaced."""
    network = Network(None, None, Alphabet(characters), "")
    return add_lines(dataset, compose.write_rounds(network, dataset, np.random.default_rng(0)), count, "written")


def test_written_lines_are_those_read_without_a_mistake(monkeypatch):
    calls = []

    def write(network, texts, seeds, biases, steps, retries, hands):
        """Of three lines one has a mistake, one is cut off."""
        calls.append(len(texts))
        assert len(texts) == len(seeds) == len(biases) == len(steps) and retries == compose.WRITE_RETRIES
        texts = [text.letters for text in texts]
        kinds = [lambda text: spell(text[:-1] + "?"), lambda text: spell(text, "cut off"), spell]
        return [replace(kinds[n % 3](text), text=text) for n, text in enumerate(texts)]

    monkeypatch.setattr(compose, "write_checked", write)
    monkeypatch.setattr(compose, "load_recogniser", SpellingReader)
    dataset = make_dataset()
    more = add_written(" 7Qabc", 30, dataset)
    assert len(more.texts) == len(dataset.texts) + 30 <= len(dataset.texts) + sum(calls) / 3
    for line in range(len(dataset.texts), len(more.texts)):
        text = str(more.texts[line])
        assert set(text) <= set(" 7Qabc") and more.names[line].startswith("written-") and more.splits[line] == "train"
        assert SpellingReader.read([more.points(line)]) == [text]


class UnsureReader(SpellingReader):
    """Reads a 7 as a 1 at the second look at distorted ink."""

    looks = 0

    @classmethod
    def read(cls, lines, rng=None):
        cls.looks += rng is not None
        read = super().read(lines)
        return [text.replace("7", "1") if cls.looks == 2 else text for text in read] if rng else read


@pytest.mark.parametrize(
    ("verdict", "is_kept"),
    [
        ({}, True),
        ({"stray": 1}, False),
        ({"lacking": 1}, False),
        ({"finished": False}, False),
        ({"read": "abd"}, False),
    ],
)
def test_lines_with_a_flaw_are_not_learned_from(monkeypatch, verdict, is_kept):
    found = Verdict(**{"finished": True, "resting": 0, "text": "abc", "read": "abc"} | verdict)
    monkeypatch.setattr(compose, "judge_lines", lambda lines, recogniser: [found])
    line = spell("abc")
    assert compose.flawless([line], SpellingReader, np.random.default_rng(0)) == [line] * is_kept


def test_lines_must_be_read_when_they_are_distorted_too():
    UnsureReader.looks, lines = 0, [spell("abc"), spell("ab7")]
    assert compose.flawless(lines, UnsureReader, np.random.default_rng(0)) == lines[:1]
    assert UnsureReader.looks == compose.READINGS


@pytest.mark.parametrize("characters", [" 7Qabc", "xyz"], ids=["no text is written well", "no text is known"])
def test_a_network_that_writes_nothing_well_is_told(characters, monkeypatch):
    monkeypatch.setattr(
        compose,
        "write_checked",
        lambda network, texts, *_, **__: [replace(spell(text.letters + "?"), text=text.letters) for text in texts],
    )
    monkeypatch.setattr(compose, "load_recogniser", SpellingReader)
    with pytest.raises(InputError, match=f"of {compose.ROUND} written lines only 0 can be read"):
        add_written(characters, 5, make_dataset())


@pytest.mark.parametrize(("height", "is_small"), [(25, True), (40, False)])
def test_a_written_line_with_small_digits_is_seen(height, is_small):
    """Flat letters 20 units high, and two digits of this height beside them."""
    strokes, characters = [], []
    for place, character in enumerate(text := "ace son 75"):
        if character != " ":
            tall = height if character.isdigit() else 20
            strokes.append(np.array([[0, 0], [10, -tall], [12, -tall / 2], [3, 0]]) + [30 * place, 0])
            characters += [place] * 4
    points = to_points(strokes)
    phi = np.eye(len(text) + 1)[characters[1:]]
    line = Line(points, None, phi, True, text)
    assert cutting.has_small_digits(line) is is_small
    assert not cutting.has_small_digits(replace(line, text="ace son no"))


class BlindReader:
    """Can read nothing."""

    @staticmethod
    def read(lines):
        return [""] * len(lines)


DIGITS = [cutting_of(character) for character in "0123456789"]


def composed_rounds(monkeypatch, recogniser, *cut):
    """Rounds of lines composed of these pieces."""
    monkeypatch.setattr(compose, "load_recogniser", recogniser)
    monkeypatch.setattr(compose, "cut_lines", lambda *_: list(cut))
    return compose.compose_rounds(None, make_dataset(), np.random.default_rng(0))


def test_composed_lines_that_nobody_can_read_are_told(cut, monkeypatch):
    """Rather than tried for ever."""
    rounds = composed_rounds(monkeypatch, BlindReader, cut._replace(glyphs=DIGITS))
    with pytest.raises(InputError, match=f"of {compose.ROUND} composed lines only 0 can be read"):
        add_lines(make_dataset(), rounds, 1, "composed")


def test_written_lines_have_each_5_in_one_stroke(monkeypatch):
    points = to_points([100 * BODY, 100 * FLAG])
    line = Line(points, None, np.tile([1.0, 0.0], (len(points) - 1, 1)), True, "5")
    monkeypatch.setattr(compose, "write_checked", lambda *_, **__: [line])
    monkeypatch.setattr(compose, "flawless", lambda lines, *_: lines)
    network = Network(None, None, Alphabet(" 5abc"), "")
    ((_, ends, *_),) = next(compose.write_rounds(network, make_dataset(), np.random.default_rng(0)))
    assert ends.tolist() == [False] * (len(points) - 1) + [True]


def test_lines_are_taken_until_there_are_enough_or_hardly_one_is_good(capsys):
    dataset, line = make_dataset(), (np.zeros((2, 2), np.int16), np.array([False, True]), "a", "composed")
    more = add_lines(dataset, repeat([line] * 100), 250, "composed")
    assert len(more.texts) == len(dataset.texts) + 250 and set(more.texts[-250:]) == {"a"}
    assert f"300 of {3 * compose.ROUND} composed lines can be read" in capsys.readouterr().out
    with pytest.raises(InputError, match=f"of {2 * compose.ROUND} composed lines only 10 can be read"):
        add_lines(dataset, iter([[line] * 10, []]), 250, "composed")


def test_lines_that_cannot_be_cut_are_told(cut, monkeypatch, capsys):
    for pieces, told in (
        (cut, "digits 0 1 2 3 4 6 8 9;"), (cut._replace(glyphs=DIGITS, words=[]), "into words")
    ):  # fmt: skip
        with pytest.raises(InputError, match=told):
            next(composed_rounds(monkeypatch, BlindReader, pieces))
    assert next(composed_rounds(monkeypatch, BlindReader, cut, cut._replace(glyphs=DIGITS))) == []
    assert (
        "2 of 30 lines cut; glyphs: , 1, 0 1, 1 1, 2 1, 3 1, 4 1, 5 2, 6 1, 7 2, 8 1, 9 1\n" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--lines", "-1"], "--lines"), (["--written", "100001"], "--written"), (["--lines", "0"], "nothing to add"),
        (["--seed=-1"], "--seed"), ([f"--seed={2**62 + 1}"], "--seed"),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(flags, word):
    with pytest.raises(InputError, match=word):
        compose.main(flags)


def test_an_output_that_cannot_be_written_is_found_before_the_work(tmp_path):
    with pytest.raises(InputError, match="is a folder"):  # and not that there is no data
        compose.main(["--data", str(tmp_path / "none.npz"), "--output", str(tmp_path)])


def test_the_program_adds_lines_to_the_file(data_file, checkpoints, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        compose, "write_checked", lambda network, texts, *_, **__: [spell(text.letters) for text in texts]
    )
    monkeypatch.setattr(compose, "load_recogniser", SpellingReader)
    flags = {"data": data_file, "checkpoint": checkpoints / "synthesis.pt", "output": tmp_path / "more.npz"}
    compose.main([*(f"--{name}={path}" for name, path in flags.items()), "--lines=0", "--written=5"])
    before, after = load_dataset(data_file), load_dataset(tmp_path / "more.npz")
    assert after.names.tolist() == [*before.names.tolist(), *(f"written-written{number:05}" for number in range(5))]
    assert (after.offsets[: len(before.offsets)] == before.offsets).all() and (after.std == before.std).all()
    assert "more.npz: 5 lines added" in capsys.readouterr().out


def test_some_of_the_lines_are_kept_beside_the_new_ones(data_file, checkpoints, tmp_path, monkeypatch):
    monkeypatch.setattr(
        compose, "write_checked", lambda network, texts, *_, **__: [spell(text.letters) for text in texts]
    )
    monkeypatch.setattr(compose, "load_recogniser", SpellingReader)
    before, kept = load_dataset(data_file), []
    for seed in (1, 2):
        flags = {"data": data_file, "checkpoint": checkpoints / "synthesis.pt", "output": tmp_path / f"{seed}.npz"}
        flags |= {"lines": 0, "written": 5, "kept": 4, "seed": seed}
        compose.main([f"--{name}={value}" for name, value in flags.items()])
        after = load_dataset(tmp_path / f"{seed}.npz")
        assert after.lines("validation", True).tolist() == before.lines("validation", True).tolist()
        kept.append(after.names[after.lines("train", False)].tolist())
        assert set(kept[-1][:4]) <= set(before.names[before.lines("train", False)]) and len(kept[-1]) == 9
        assert all(name.startswith("written-") for name in kept[-1][4:])
    assert kept[0][:4] != kept[1][:4]


def test_data_without_training_texts_is_refused(data_file, checkpoints, tmp_path):
    dataset = load_dataset(data_file)
    save_dataset(replace(dataset, splits=np.array(["validation"] * len(dataset.splits))), tmp_path / "none.npz")
    with pytest.raises(InputError, match="no training line with a text"):
        compose.main(
            [f"--data={tmp_path}/none.npz", f"--checkpoint={checkpoints}/synthesis.pt", f"--output={tmp_path}/o"]
        )


def test_it_runs_as_a_program(tmp_path):
    command = [sys.executable, "-m", "handwriting.compose", "--data", str(tmp_path / "none.npz")]
    assert_refused(
        subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment()), "none.npz: no such file"
    )


def test_a_network_that_reads_hands_writes_in_hands_that_nobody_has(checkpoints, monkeypatch):
    network, asked = load_network(checkpoints / "hands.pt", "synthesis"), []

    def write(network, texts, seeds, biases, steps, retries, hands):
        asked.extend(zip(seeds, hands, strict=True))
        return [spell(text.letters) for text in texts]

    monkeypatch.setattr(compose, "write_checked", write)
    monkeypatch.setattr(compose, "load_recogniser", SpellingReader)
    lines = next(compose.write_rounds(network, make_dataset(), np.random.default_rng(0)))
    assert lines and len(lines) <= len(asked)
    mean, strengths = network.model.hand_mean.numpy(), set()
    for seed, hand in asked:
        usual = random_vector(network.encoder, seed) - mean
        strengths.add(round(float((hand - mean) @ usual / np.square(usual).sum()), 2))
        np.testing.assert_allclose(hand - mean, (hand - mean) @ usual / np.square(usual).sum() * usual, atol=1e-5)
    assert min(strengths) >= compose.STRENGTHS[0] and max(strengths) <= compose.STRENGTHS[1] and len(strengths) > 20
