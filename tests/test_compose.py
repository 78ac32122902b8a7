"""Lines of made-up letters, cut into words and characters and put together again."""

import subprocess
import sys
from dataclasses import replace
from itertools import repeat

import numpy as np
import pytest
import torch
from conftest import ROOT, assert_refused, environment, make_dataset
from test_model import make_model

from handwriting import compose
from handwriting.alphabet import Alphabet
from handwriting.compose import NewLine, add_lines, choose_glyph, compose_line, join, take, to_new_line
from handwriting.cutting import Cutting, align_characters, cut_line, cut_words, measure_slant, places_read_right
from handwriting.data.dataset import load_dataset, save_dataset
from handwriting.program import InputError
from handwriting.sampling import Line, Sampler
from handwriting.strokes import to_strokes
from handwriting.writer import Network

TEXT = "man 57 one, wave"
SLOPE, X_HEIGHT, SLANT = 0.05, 100.0, 0.3


def write_character(character: str) -> list[np.ndarray]:
    """Strokes (n, 2) in x-heights, y downwards from the baseline: zigzags, those of digits twice as high."""
    height = {",": 0.2}.get(character, 2.0 if character.isdigit() else 1.0)
    y = -height * np.array([0, 0.5, 1, 0.5, 0, 0.5, 1, 0.5, 0])
    x = np.linspace(0, 0.8, len(y))
    return [np.column_stack([x - SLANT * y, y])]


def write_line(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Points (T, 3) in whiteboard units of a slanted, sloping line, and each point's character (T,)."""
    strokes, characters = [], []
    for place, character in enumerate(text):
        for stroke in [] if character == " " else write_character(character):
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
    return cut_line(points, characters, TEXT, set(range(len(TEXT))))


def test_a_line_is_cut_into_words_and_glyphs(cut):
    assert [word.text for word in cut.words] == TEXT.split()
    assert [glyph.text for glyph in cut.glyphs] == ["5", "7", ","]
    assert cut.slope == pytest.approx(SLOPE, abs=0.02) and cut.x_height == pytest.approx(X_HEIGHT, rel=0.1)
    np.testing.assert_allclose(cut.gaps, 1.4, atol=0.5)
    assert len(cut.gaps) == 3
    height = np.ptp(np.concatenate(cut.glyphs[0].strokes)[:, 1])
    assert height == pytest.approx(2.0, rel=0.1)  # x-heights
    for piece in [*cut.words, *cut.glyphs]:
        assert min(stroke[:, 0].min() for stroke in piece.strokes) == pytest.approx(0)


def test_glyphs_are_those_read_right_only():
    points, characters = write_line(TEXT)
    read = "man 17 one, wave"  # the 5 is read wrong
    right = places_read_right(TEXT, read)
    assert right == set(range(len(TEXT))) - {4}
    assert [glyph.text for glyph in cut_line(points, characters, TEXT, right).glyphs] == ["7", ","]


def test_what_shares_strokes_is_not_cut():
    points, characters = write_line(TEXT)
    points[:, 2] = 0
    points[-1, 2] = 1  # one stroke
    line = cut_line(points, characters, TEXT, set(range(len(TEXT))))
    assert line.words == [] and line.glyphs == []


def test_a_bar_written_late_belongs_to_the_word_that_it_crosses():
    """The window is on the next word already when the pen goes back."""
    strokes = [np.array([[0.0, 0], [2, 0]]), np.array([[0.5, -1], [1, -1]]), np.array([[3.0, 0], [4, 0]])]
    owners = [np.array([0, 0]), np.array([2, 2]), np.array([3, 3])]
    words, gaps = cut_words(strokes, owners, [0, 2, 3], "f ab", 0.0)
    assert [len(word.strokes) for word in words] == [2, 1] and gaps == [1.0]


def test_a_glyph_takes_the_slant_and_height_asked_for():
    glyph = Cutting("5", write_character("5"), SLANT)
    rng = np.random.default_rng(0)
    found = [choose_glyph([glyph], 0.0, 1.5, rng) for _ in range(200)]
    slants = [measure_slant(piece.strokes) for piece in found]
    upright = measure_slant([stroke * [1, 1] + SLANT * stroke[:, 1:] * [1, 0] for stroke in glyph.strokes])
    assert np.mean(slants) == pytest.approx(upright, abs=0.03)
    assert np.mean([np.ptp(piece.strokes[0][:, 1]) for piece in found]) == pytest.approx(1.5, rel=0.02)


def test_composed_lines_say_their_text_at_the_size_of_their_base(cut):
    glyphs = {character: [Cutting(character, write_character(character), SLANT)] for character in "0123456789:/.,-()"}
    rng = np.random.default_rng(0)
    for _ in range(20):
        line = compose_line(cut, glyphs, rng)
        assert 0 < len(line.text) <= compose.MAX_CHARACTERS + 10 and any(c.isdigit() for c in line.text)
        count = len(line.text.replace(" ", ""))
        assert len(line.strokes) == count  # each of these characters has one stroke
        offsets, ends, text = to_new_line(line, cut, keep_rests=False)
        assert text == line.text
        assert offsets.dtype == np.int16 and ends.sum() == count and not offsets[0].any()
        strokes = to_strokes(np.column_stack([offsets, ends]))
        starts = np.array([stroke[0] for stroke in strokes])
        if len(starts) > 3:
            assert np.polyfit(*starts.T, 1)[0] == pytest.approx(SLOPE, abs=0.05)


def test_pieces_stand_beside_each_other():
    piece = Cutting("a", [np.array([[0.0, 0], [2, 1]])], 0.0)
    both = join([piece, piece], [0.5], " ")
    assert both.text == "a a" and both.width == 4.5 and both.strokes[1][0, 0] == 2.5


def test_new_lines_are_training_lines_and_nothing_else_changes(tmp_path):
    dataset = make_dataset()
    offsets, ends = np.array([[0, 0], [5, 5], [3, 1]], dtype=np.int16), np.array([False, False, True])
    more = add_lines(dataset, [NewLine(offsets, ends, "7a"), NewLine(offsets, ends, "77")], "composed")
    assert more.names[-2:].tolist() == ["composed-00000", "composed-00001"]
    save_dataset(more, tmp_path / "more.npz")
    loaded = load_dataset(tmp_path / "more.npz")
    assert list(loaded.lines("train", True)[-2:]) == [40, 41] and loaded.texts[41] == "77"
    np.testing.assert_array_equal(loaded.points(40)[:, :2], offsets)
    assert (loaded.char_counts - dataset.char_counts).tolist() == [0, 3, 0, 1, 0, 0]
    assert (loaded.mean == dataset.mean).all() and (
        loaded.lines("validation", True) == dataset.lines("validation", True)
    ).all()


def test_alignment_follows_the_window():
    dataset, model = make_dataset(), make_model(1, 6).float()
    with torch.no_grad():
        model.layers[0].window.weight.zero_()
        model.layers[0].window.bias.copy_(torch.tensor([0.0, 0.0, np.log(1 / 6)]).repeat_interleave(4))
    network = Network(model, Sampler(model), Alphabet("".join(dataset.charset)), "")
    lines = dataset.lines("train", True)[:5]
    aligned = align_characters(network, dataset, lines)
    for line in lines:
        length = dataset.starts[line + 1] - dataset.starts[line]
        expected = np.clip(np.rint(np.arange(1, length) / 6), 1, len(dataset.texts[line])) - 1
        assert len(aligned[line]) == length
        assert (aligned[line][1:] == expected).mean() > 0.9  # six points a character; halves may be rounded either way


def test_texts_to_write_are_of_neighbouring_words_and_tokens():
    texts, rng = np.array(["we saw the old house by the river", "quite"]), np.random.default_rng(0)
    made = [compose.random_text(texts, rng) for _ in range(300)]
    assert all(0 < len(text) <= compose.MAX_CHARACTERS for text in made)
    words = [[word.lower() for word in text.split() if word.lower() in " ".join(texts).split()] for text in made]
    assert all(" ".join(found) in " ".join(texts) for found in words)
    tokens = [len(text.split()) - len(found) for text, found in zip(made, words, strict=True)]
    assert set(tokens) == {0, 1} and np.mean(tokens) == pytest.approx(compose.TOKEN_SHARE, abs=0.1)
    assert any("Quite" in text for text in made) and any("quite" in text for text in made)


class SpellingReader:
    """Reads the ink of `spell`."""

    @staticmethod
    def read(lines):
        return ["".join(chr(round(float(x))) for x in line[1:, 0]) for line in lines]


def spell(text: str, fault: str = "") -> Line:
    """Ink whose offsets are the characters' numbers, a hair off."""
    numbers = [ord(character) + 0.2 * (-1) ** n for n, character in enumerate(text)]
    points = np.array([(0, 0, 0), *((number, 7, 0) for number in numbers)], dtype=np.float32)
    points[-1, 2] = 1
    return Line(points, None, None, not fault, text, fault)


def write_lines(characters, count, dataset):
    """What a network of these characters writes, in place of `write_checked` and `load_recogniser`."""
    network = Network(None, None, Alphabet(characters), "")
    return take(compose.written_rounds(network, dataset, np.random.default_rng(0)), count, "are good")


def test_written_lines_are_those_read_without_a_mistake(monkeypatch):
    tries = []

    def write(network, texts, seeds, biases, steps, retries):
        """The first try at each text has a mistake, the second one a fault."""
        texts = [text.letters for text in texts]
        tries.append(texts)
        assert len(texts) == len(seeds) == len(biases) == len(steps) and retries == 0
        if len(tries) % compose.WRITE_TRIES == 1:
            return [spell(text[:-1] + "?") for text in texts]
        return [spell(text, "cut off" if len(tries) % compose.WRITE_TRIES == 2 else "") for text in texts]

    monkeypatch.setattr(compose, "write_checked", write)
    monkeypatch.setattr(compose, "load_recogniser", SpellingReader)
    dataset = make_dataset()
    more = add_lines(dataset, write_lines(" 7Qabc", 30, dataset), "written")
    assert [len(texts) for texts in tries[:3]] == [len(tries[0])] * 3 and len(tries) == 3  # and none for a fourth
    assert len(more.texts) == len(dataset.texts) + 30
    for line in range(len(dataset.texts), len(more.texts)):
        text = str(more.texts[line])
        assert set(text) <= set(" 7Qabc") and more.names[line].startswith("written-") and more.splits[line] == "train"
        assert SpellingReader.read([more.points(line)]) == [text]


@pytest.mark.parametrize("characters", [" 7Qabc", "xyz"], ids=["no text is written well", "no text is known"])
def test_a_network_that_writes_nothing_well_is_told(characters, monkeypatch):
    monkeypatch.setattr(
        compose, "write_checked", lambda network, texts, *_, **__: [spell(text.letters + "?") for text in texts]
    )
    monkeypatch.setattr(compose, "load_recogniser", SpellingReader)
    with pytest.raises(InputError, match=f"of {compose.ROUND} new lines only 0 are good"):
        write_lines(characters, 5, make_dataset())


class BlindReader:
    """Can read nothing."""

    @staticmethod
    def read(lines):
        return [""] * len(lines)


def test_composed_lines_that_nobody_can_read_are_told(cut, monkeypatch):
    """Rather than tried for ever."""
    glyphs = {character: [Cutting(character, write_character(character), SLANT)] for character in "0123456789"}
    monkeypatch.setattr(compose, "load_recogniser", BlindReader)
    monkeypatch.setattr(compose, "cut_lines", lambda *_: [cut])
    monkeypatch.setattr(compose, "collect_glyphs", lambda cut: glyphs)
    rounds = compose.composed_rounds(None, make_dataset(), np.random.default_rng(0))
    with pytest.raises(InputError, match=f"of {compose.ROUND} new lines only 0 can be read"):
        take(rounds, 1, "can be read")


def test_lines_are_taken_until_there_are_enough_or_hardly_one_is_good(capsys):
    line = NewLine(np.zeros((2, 2), np.int16), np.array([False, True]), "a")
    assert take(repeat([line] * 100), 250, "are good") == [line] * 250
    assert f"300 of {3 * compose.ROUND} new lines are good" in capsys.readouterr().out
    with pytest.raises(InputError, match=f"of {2 * compose.ROUND} new lines only 10 are good"):
        take(iter([[line] * 10, []]), 250, "are good")


def test_lines_that_cannot_be_cut_are_told(cut):
    with pytest.raises(InputError, match="digits 0 1 2 3 4 6 8 9;"):
        compose.collect_glyphs([cut])
    digits = [Cutting(character, write_character(character), SLANT) for character in "0123456789"]
    assert compose.collect_glyphs([replace(cut, glyphs=digits)]).keys() == set("0123456789")
    with pytest.raises(InputError, match="into words"):
        compose.collect_glyphs([replace(cut, glyphs=digits, words=[])])


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
    assert after.names.tolist() == [*before.names.tolist(), *(f"written-{number:05}" for number in range(5))]
    assert (after.offsets[: len(before.offsets)] == before.offsets).all() and (after.std == before.std).all()
    assert "more.npz: 5 lines added" in capsys.readouterr().out


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
