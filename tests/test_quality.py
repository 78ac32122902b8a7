"""The measure of legibility: counts by hand-made windows and strokes, sums over lines, its texts, and whole runs."""

import json
import re
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import CHARSET, run_script
from made_up_ink import write_line

from benchmarks import quality
from benchmarks.quality import (
    Ink,
    character_errors,
    ink_figures,
    lines_figure,
    repeated_letters,
    resting_steps,
    skipped_letters,
)
from handwriting.ink.geometry import find_level
from handwriting.program import InputError
from handwriting.recogniser import Recogniser, RecogniserConfig
from handwriting.sampling import Line
from handwriting.strokes import to_points
from handwriting.writer import generate_conditionally, load_network
from model import Config, Model
from utils import save_checkpoint

SAID = "the quick dog jumps high up again"
LINE = np.array([[0, 0, 0], [40, 0, 1]], dtype=np.float32)  # one long step


def window(path: list[int], U: int) -> np.ndarray:
    """Window weights (T, U + 1) that are strongest, 2, where the path says, and 0.2 elsewhere."""
    phi = np.full((len(path), U + 1), 0.2, dtype=np.float32)
    phi[np.arange(len(path)), path] = 2.0
    return phi


# ------------------------------------------------------------------------------------------------------ window's path


@pytest.mark.parametrize(
    ("text", "path", "skipped"),
    [
        ("abc", [0, 0, 1, 2], 0),
        ("abc", [0, 0, 2, 2], 1),
        ("a b", [0, 0, 2, 2], 0),  # a blank is nothing to write
        ("abcd", [0, 1, 1], 2),  # ended by the cap
        ("aaaa", [0, 3], 2),  # places count, not characters
        ("ab", [], 2),
    ],
)
def test_skipped_letters(text, path, skipped):
    assert skipped_letters(window(path, len(text)), text) == skipped


def test_a_letter_between_two_stronger_ones_is_not_skipped():
    phi = window([0, 0, 2, 2], 3)
    phi[1, 1] = 0.9  # the window looks at it, and more at its neighbour
    assert skipped_letters(phi, "abc") == 0


@pytest.mark.parametrize(
    ("text", "path", "repeated"),
    [
        ("abc", [0, 0, 0, 1, 1, 1, 2, 2, 2], 0),
        ("abc", [0, 1, 0, 0, 0, 1, 2], 1),
        ("abc", [0, 1, 0, 0, 1, 2], 0),  # a short look back
        ("abc", [0, 1, 2, 0, 0, 0, 1, 1, 1, 2], 2),
        ("a b", [0, 1, 2, 1, 1, 1, 2], 0),  # a blank
        ("abc", [2, 1, 1, 1, 2], 1),
        ("ab", [], 0),
    ],
)
def test_repeated_letters(text, path, repeated):
    assert repeated_letters(window(path, len(text)), text) == repeated


# ------------------------------------------------------------------------------------------------------------ figures


def test_resting_steps_are_short_ones_within_a_stroke():
    points = [[0, 0, 0], [1, 1, 0], [2, -2, 0], [3, 0, 1], [1, 0, 0], [0, 2.9, 0], [30, 40, 1]]
    #          begins    rests      rests       exactly 3  a lift     rests        writes
    assert resting_steps(np.array(points)) == (3, 5)
    assert resting_steps(np.zeros((0, 3))) == resting_steps(np.array([[1, 1, 1]])) == (0, 0)


def test_figures_of_lines_by_hand():
    rests = np.array([[0, 0, 0], [1, 0, 0], [40, 0, 0], [40, 0, 1]], dtype=np.float32)
    lines = [Ink("ab12", LINE, "ab12"), Ink("ab34", rests, "b3"), Ink("abcdefgh5", LINE, "abcdefgh55x")]
    figures = ink_figures(lines)
    assert (figures["lines"], figures["characters"]) == (3, 17)
    assert figures["error_rate"] == pytest.approx(4 / 17)
    assert figures["wrong_words"] == pytest.approx(2 / 3) and figures["right_lines"] == pytest.approx(1 / 3)
    assert figures["first_wrong"] == pytest.approx(1 / 3)  # the a of ab34
    assert figures["last_wrong"] == pytest.approx(1 / 3)  # its 4; what is read besides is beyond the last
    assert figures["bad_lines"] == 1
    assert figures["digit_error_rate"] == pytest.approx(1 / 5)  # the 4; what is read besides is no digit of the text
    assert figures["resting_share"] == pytest.approx(1 / 5)
    assert figures["points_per_character"] == pytest.approx(8 / 17)
    assert "digit_error_rate" not in ink_figures([Ink("ab", LINE, "ab")])
    assert ink_figures([Ink("ab", LINE[:0], "")])["error_rate"] == 1  # no ink at all


def test_errors_by_character():
    lines = [Ink("noon", LINE, "moon"), Ink("no", LINE, "mo!"), Ink("in", LINE, "i")]
    errors = character_errors(lines)
    assert list(errors)[:2] == ["n", ""]
    assert errors["n"] == {"count": 4, "wrong": 3, "read_as": {"m": 2, "": 1}}
    assert errors[""] == {"count": 1, "wrong": 1, "read_as": {"!": 1}}
    assert errors["o"] == {"count": 3, "wrong": 0, "read_as": {}}
    assert quality.common_errors(lines) == "'n' 3 of 4 ('m' 2, missing 1); added 1 ('!' 1)"
    assert quality.common_errors([Ink("no", LINE, "no")]) == "none"


def test_the_table_has_a_cell_for_each_column_and_a_dash_for_what_is_not_there():
    row = quality.table_row({"name": "recorded"} | ink_figures([Ink("ab", LINE, "a"), Ink("ab", LINE, "ab")]))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    head = [cell.strip() for cell in quality.table_head().splitlines()[0].strip("|").split("|")]
    found = dict(zip(head, cells, strict=True))
    assert found["characters wrong"] == "25.0 %"
    assert found["words wrong"] == found["lines without a mistake"].replace("50 %", "50.0 %") == "50.0 %"
    assert found["first, last character wrong"] == "0.0 %, 50.0 %"
    assert found["lines above 30 %"] == "1 of 2"
    assert found["digits wrong"] == found["ended by the cap"] == "-"
    assert found["points a character"] == "1.0"


# -------------------------------------------------------------------------------------------------------------- texts


def test_the_texts_are_varied_and_the_shipped_network_knows_their_characters():
    sentences, numbers, endings = (quality.read_texts(path) for path in quality.TEXTS)
    assert (len(set(sentences)), len(set(numbers)), len(set(endings))) == (200, 100, 60)
    assert {text[-1] for text in endings} == set("tfij?57")
    lengths = [len(text) for text in sentences]
    assert min(lengths) >= 25 and max(lengths) <= 55 and 36 <= np.median(lengths) <= 40
    counts = Counter("".join(sentences))
    assert all(counts[character] >= 3 for character in "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?'\"()-/")
    assert max(Counter(text.split()[0] for text in sentences).values()) < 10
    assert set("".join(sentences + numbers)) <= set(load_network(None, "synthesis").alphabet.learned)


def test_files_of_texts_that_cannot_be_used(tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    for name in ("empty.txt", "latin.txt"):
        with pytest.raises(InputError, match=name):
            quality.read_texts(tmp_path / name)


# --------------------------------------------------------------------------------------------------------- whole runs


class ReaderOfA:
    """Reads the letter a in whatever ink."""

    def read(self, lines: list[np.ndarray]) -> list[str]:
        assert all(line.shape[1] == 3 for line in lines)
        return ["a"] * len(lines)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a small untrained network and texts for it."""
    folder = tmp_path_factory.mktemp("quality")
    torch.manual_seed(0)
    model = Model(Config(cell_size=8, num_clusters=3, K=2, num_chars=len(CHARSET)))
    model.mean.copy_(torch.tensor([8.0, 0.0]))
    model.std.copy_(torch.tensor([40.0, 35.0]))
    save_checkpoint(folder / "synthesis.pt", model, CHARSET, [5] * len(CHARSET), task="synthesis")
    (folder / "words.txt").write_text("abc\n\nca ab\nQ\nbaa\nabba\ncc\n")
    (folder / "digits.txt").write_text("77\n7a7\n")
    return folder


def measure(monkeypatch, capsys, files, *flags) -> tuple[dict, list[str]]:
    """Run quality.py with the stub; returns its JSON and the rows that it printed."""
    monkeypatch.setattr(quality, "load_recogniser", lambda path: ReaderOfA())
    texts = ["--texts", files / "words.txt", files / "digits.txt"]
    arguments = ["--checkpoint", files / "synthesis.pt", *texts, "--json", files / "found.json", *flags]
    quality.main([str(argument) for argument in arguments])
    printed = capsys.readouterr().out
    return json.loads((files / "found.json").read_text()), printed.splitlines()


def test_a_run_measures_texts_biases_and_recorded_lines(monkeypatch, capsys, files, data_file, dataset):
    monkeypatch.setattr(quality, "WRITE_BATCH", 4)  # so that there are two batches
    flags = ["--bias", 0, 2, "--data", data_file, "--picture", files / "worst.png"]
    found, printed = measure(monkeypatch, capsys, files, *flags)
    names = ["words, bias 0", "words, bias 2", "digits, bias 0", "digits, bias 2"]
    assert [row["name"] for row in found["rows"]] == [*names, "recorded validation lines, rests dropped"]
    assert [row.split(" | ")[0] for row in printed[2:7]] == [f"| {row['name']}" for row in found["rows"]]
    words, digits, recorded = found["rows"][0], found["rows"][2], found["rows"][4]
    assert words["error_rate"] == pytest.approx((2 + 4 + 1 + 2 + 3 + 2) / 18)  # whatever the ink is
    assert digits["error_rate"] == pytest.approx(4 / 5) and digits["digit_error_rate"] == 1
    validation = dataset.lines("validation", with_text=True)
    assert recorded["lines"] == len(validation) and "capped" not in recorded
    lengths = [len(dataset.texts[line]) for line in validation]
    assert recorded["points_per_character"] == pytest.approx(np.diff(dataset.starts)[validation].sum() / sum(lengths))
    assert (files / "worst.png").read_bytes().startswith(b"\x89PNG")

    again, _ = measure(monkeypatch, capsys, files, *flags)
    assert again == found
    other, _ = measure(monkeypatch, capsys, files, *flags, "--seed", 1)
    assert other["rows"][0]["points_per_character"] != words["points_per_character"]


def test_each_text_has_its_own_seed_whatever_the_batches_are(monkeypatch, files):
    texts = ["abc", "abc", "abc"]
    checkpoint = files / "synthesis.pt"
    monkeypatch.setattr(quality, "WRITE_BATCH", 2)
    lines = quality.write_lines(texts, ReaderOfA(), 0.5, seed=7, checkpoint=checkpoint)
    for line, expected in zip(lines, generate_conditionally(texts, 1, None, 0.5, 7, checkpoint, 0), strict=True):
        np.testing.assert_allclose(line.points, expected.points, atol=1e-4)


def test_quick_takes_every_fifth_text_and_missing_data_is_told(monkeypatch, capsys, files):
    found, printed = measure(monkeypatch, capsys, files, "--quick", "--bias", 1, "--data", files / "none.npz")
    assert [row["characters"] for row in found["rows"]] == [3 + 2, 2]  # of words the first and the sixth
    assert any(str(files / "none.npz") in line for line in printed)


def test_what_the_writer_says_of_a_line_is_counted(monkeypatch, files):
    """Lines ended by the cap, letters skipped and repeated, and those without their marks in a flat line."""
    asked = []

    def write(texts, **settings):
        asked.append(settings)
        paths = [[0, 0, 1, 2], [0, 1, 0, 0, 0]]
        inks = [np.tile(np.float32([30, 0, 0]), (len(path) + 1, 1)) for path in paths]
        parts = zip(texts, paths, inks, [True, False], strict=True)
        return [Line(ink, np.zeros(0), window(path, len(text)), end, text) for text, path, ink, end in parts]

    monkeypatch.setattr(quality, "generate_conditionally", write)
    for retries in (0, 2):
        lines = quality.write_lines(["axt", "a5i"], ReaderOfA(), 1.0, retries=retries)
        without = {"no_bar": "1 of 1", "no_flag": "0 of 1", "no_cross": "1 of 1", "no_dot": "1 of 1"}
        assert quality.window_figures(lines) == {"capped": 1, "skipped": 1, "repeated": 1} | without
    assert [settings["retries"] for settings in asked] == [0, 2]


def test_the_picture_has_the_worst_lines_of_each_set(monkeypatch, tmp_path):
    """Lines without ink, or not finite, are drawn too."""
    drawn = []
    monkeypatch.setattr(quality, "WORST_LINES", 4)
    monkeypatch.setattr(
        quality, "lines_figure", lambda inks, titles: drawn.extend(titles) or lines_figure(inks, titles)
    )
    inks = [Ink("abcd", LINE, "abcd"), Ink("abcd", LINE[:0], ""), Ink("abcd", np.full((4, 3), np.nan), "a")]
    rows = [{"texts": "words", "name": "words, bias 0"}, {"texts": "digits", "name": "digits, bias 0"}]
    quality.save_worst([(rows[0], inks), (rows[1], [Ink("7", LINE, "17")] * 3)], tmp_path / "worst.png")
    assert [title.split(" wrong")[0] for title in drawn] == [
        "words, bias 0, 100%", "words, bias 0, 75%", "digits, bias 0, 100%", "digits, bias 0, 100%",
    ]  # fmt: skip
    assert drawn[2].endswith("7  ->  17")
    assert (tmp_path / "worst.png").read_bytes().startswith(b"\x89PNG")


def test_the_script_with_a_small_untrained_reader(files):
    recogniser = Recogniser(RecogniserConfig(CHARSET, num_layers=1, cell_size=8, channels=8))
    save_checkpoint(files / "recogniser.pt", recogniser, CHARSET, [5] * len(CHARSET), half=True, task="read")
    flags = [
        "--checkpoint",
        files / "synthesis.pt",
        "--recogniser",
        files / "recogniser.pt",
        "--texts",
        files / "words.txt",
    ]
    result = run_script("benchmarks/quality.py", *flags, "--bias", 1, cwd=files)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[2].startswith("| words, bias 1 | ")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--recogniser", "none.pt"], ["none.pt", "no such"]),
        (["--picture", "worst.gif"], ["worst.gif", ".png"]),
        (["--texts", "none.txt"], ["none.txt"]),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, flags, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((InputError, OSError), match=".*".join(map(re.escape, words))):
        quality.main(flags)


def test_a_text_with_an_unknown_character_is_refused_before_anything_is_written(monkeypatch, capsys, files):
    (files / "bad.txt").write_text("abc\nabz\n")
    monkeypatch.setattr(quality, "generate_conditionally", lambda *_, **__: pytest.fail("it wrote"))
    with pytest.raises(InputError, match="'z'"):
        measure(monkeypatch, capsys, files, "--texts", files / "bad.txt")


@pytest.mark.parametrize("titles", [None, ["first", "second"]])
def test_lines_stand_below_each_other_at_one_scale(titles):
    tall = np.array([[5, 7, 0], [300, 400, 1]])  # one stroke, 300 wide and 400 high
    dotted = np.array([[0, 0, 0], [100, 50, 1], [-80, -90, 1]])  # a stroke, and a dot above it
    figure = lines_figure([tall, dotted], titles)
    axes = figure.axes[0]
    first, second, dot = axes.collections[0].get_segments()
    np.testing.assert_allclose([first.min(0)[0], min(second[:, 0].min(), dot[0, 0])], 0)  # aligned on the left
    np.testing.assert_allclose([np.ptp(first, axis=0), np.ptp(second, axis=0)], [[300, 400], [100, 50]])
    assert len(dot) == 2 and (dot[0] == dot[1]).all()  # round caps make a dot of it
    np.testing.assert_allclose(dot[0] - second[0], [20, -40])
    assert dot[0, 1] > first[:, 1].max()
    assert [text.get_text() for text in axes.texts] == (titles or [])
    for text, ink in zip(axes.texts, (first, dot), strict=False):
        assert text.get_position()[1] < ink[:, 1].min()
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert (left, right, top) == (-60, 360, -60) and bottom > second[:, 1].max()
    np.testing.assert_allclose(figure.get_size_inches() * 400, [right - left, bottom - top])


def test_measures_of_a_line():
    """Two letters: an upright stroke of steps of 10 and one of 2, and, 50 further on, one of a step of 20."""
    strokes = [np.array([[0.0, 0], [0, 10], [0, 20], [0, 22]]), np.array([[30.0, -18], [30, 2]])]
    found = quality.line_measures(to_points(strokes), "ab")
    expected = {
        "points a character": 3, "points before a lift, %": 100 / 3, "length of a stroke": (22 + 20) / 2,
        "speed: a step in a stroke": 10, "steps below 3 units, %": 25, "spread of x offsets": 0,
        "spread of y offsets": np.std([10, 10, 2, 20]), "step between strokes": 50, "slant, degrees": 0,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    line = write_line(SAID)
    measured = quality.line_measures(line.points, SAID)
    assert measured["x-height"] == pytest.approx(find_level(line.strokes).x_height)
    wider = quality.line_measures(line.points * [3, 1, 1], SAID)
    assert wider["spread of x offsets"] == pytest.approx(3 * measured["spread of x offsets"], rel=1e-4)
