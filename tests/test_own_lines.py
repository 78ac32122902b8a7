"""A data set of one's own ink: .jsonl and files of ink, in any alphabet and any unit."""

import json
from itertools import pairwise

import numpy as np
import pytest
from conftest import assert_refused
from greek import WORDS, write_greek

import data_preprocessing
import generate
import train
from handwriting.checks import tell_unread
from handwriting.data.dataset import load_dataset
from handwriting.ink.formats import Ink, save, stack_lines
from handwriting.ink.geometry import find_level
from handwriting.program import InputError
from handwriting.strokes import to_points, to_strokes
from utils import load_checkpoint


def prepare(source, *flags):
    """The data set that the program makes of a source."""
    output = source.parent / f"{source.stem}-made.npz"
    data_preprocessing.main(["--source", str(source), "--output", str(output), *flags])
    return load_dataset(output)


def read_rows(path):
    return [json.loads(row) for row in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def greek(tmp_path_factory):
    """Forty lines by five writers, in pixels, with letters 15 pixels high."""
    write_greek(path := tmp_path_factory.mktemp("greek") / "greek.jsonl", lines=40, writers=5)
    return path


def test_lines_keep_their_shape_and_text_and_get_the_usual_size(greek, capsys):
    data, rows = prepare(greek), read_rows(greek)
    assert data.texts.tolist() == [row["text"] for row in rows] and set(data.charset) <= set(WORDS)
    assert "40 lines read, 0 skipped" in capsys.readouterr().out
    heights, slack = [], 0.0
    for line, row in enumerate(rows):
        strokes, given = to_strokes(data.points(line)), [np.array(stroke) for stroke in row["strokes"]]
        assert len(strokes) == len(given)
        made, wanted = np.concatenate(strokes), np.concatenate(given)
        factor = np.ptp(made, axis=0).max() / np.ptp(wanted, axis=0).max()
        for a, b in zip(strokes, given, strict=True):  # ends stay where they are, no point is off the stroke
            moved = (b - wanted[0]) * factor
            assert np.abs(a[[0, -1]] - moved[[0, -1]]).max() < 3
            steps = np.hypot(*np.diff(a, axis=0).T)
            assert len(a) < 4 or 10 < np.median(steps) < 26
            way = np.concatenate([np.linspace(p, q, 9) for p, q in pairwise(moved)])
            slack = max(slack, max(np.hypot(*(way - point).T).min() for point in a))
        heights.append(find_level(strokes).x_height)
    assert np.median(heights) == pytest.approx(130, rel=0.1) and slack < 15


def test_units_do_not_matter(greek, tmp_path):
    rows = read_rows(greek)
    for row in rows:
        row["strokes"] = [[[25 * x + 1000, 25 * y - 7, 0.5] for x, y in stroke] for stroke in row["strokes"]]
    (tmp_path / "large.jsonl").write_bytes("\n".join(map(json.dumps, rows)).encode("utf-8-sig"))
    small, large = prepare(greek, "--keep_rests"), prepare(tmp_path / "large.jsonl", "--keep_rests")
    assert small.texts.tolist() == large.texts.tolist() and (small.starts == large.starts).all()
    assert np.abs(small.offsets - large.offsets).max() <= 1


def test_points_in_whiteboard_units_stay_as_they_are(tmp_path):
    strokes = [[[0, 0], [1, 0], [30, 9], [100, 50]], [[130, 20], [130, 90]]]
    (tmp_path / "own.jsonl").write_text(json.dumps({"strokes": strokes, "split": "train"}))
    kept = prepare(tmp_path / "own.jsonl", "--keep_scale", "--keep_rests")
    assert kept.points(0).tolist() == to_points([np.array(stroke) for stroke in strokes]).tolist()
    assert len(prepare(tmp_path / "own.jsonl", "--keep_scale").offsets) == 5  # without the rest


def test_splits_are_by_line_by_writer_or_as_told(greek, tmp_path):
    def writers(data, split):
        return {name.rpartition("-")[0] for name in data.names[data.splits == split].tolist()}

    by_line, by_writer = prepare(greek), prepare(greek, "--by_writer")
    assert (by_line.splits == "validation").sum() == 5 and len(writers(by_line, "train")) == 5
    assert len(writers(by_writer, "validation")) == 1 and len(writers(by_writer, "train")) == 4
    assert not writers(by_writer, "validation") & writers(by_writer, "train")
    rows = [row | ({"split": "validation"} if n == 7 else {}) for n, row in enumerate(read_rows(greek))]
    (tmp_path / "told.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert np.flatnonzero(prepare(tmp_path / "told.jsonl").splits == "validation").tolist() == [7]


BAD_ROWS = {
    '{"text": "\u03b1"'.encode("iso8859-7"): "not in UTF-8", b"[1, 2]": "not JSON with strokes", b"{": "not JSON",
    b'{"text": "a"}': "not JSON with strokes", b"[" * 10_000: "not JSON", b'{"strokes": "abc"}': "not JSON with",
    b'{"strokes": [[["a", 1], [2, 3]]]}': "not JSON with", b'{"strokes": [[[1], [2]]]}': "not JSON with",
    b'{"strokes": [[[0, 0], [1, NaN]]]}': "not finite", b'{"strokes": [[[0, 0], [1, 1e9]]]}': "beyond",
    b'{"strokes": [[[0, 0], [1, %s]]]}' % (b"9" * 5000): "not JSON", b'{"strokes": [[[0, 0]]]}': "fewer than two",
    b'{"strokes": [[[5, 5], [5, 5]]]}': "no extent", b'{"strokes": []}': "fewer than two",
    b'{"strokes": [[[0, 0], [9, 9]]], "split": "test"}': "its split is",
    b'{"strokes": [[[0, 0], [9, 9]]], "split": []}': "its split is",
    b'{"strokes": [[[0, 0], [9, 9]]], "text": 5}': "not the text",
    b'{"strokes": [[[0, 0], [9, 9]]], "text": "\\u0007"}': "not the text",
    b'{"strokes": [[[0, 0], [9, 9]]], "text": "%s"}' % (b"a" * 1001): "more than 1000",
    b'{"strokes": [[[0, 0], [9e5, 9]]], "text": "ab"}': "too long",
}  # fmt: skip


@pytest.mark.parametrize("row, reason", BAD_ROWS.items(), ids=range(len(BAD_ROWS)))
def test_a_bad_row_is_named_and_left_out(row, reason, tmp_path, capsys):
    good = b'{"text": "ab", "strokes": [[[0, 0], [9, 9], [20, 0]]], "split": "train"}'
    (tmp_path / "own.jsonl").write_bytes(b"\n".join([good, b"", row, good]))
    assert prepare(tmp_path / "own.jsonl").texts.tolist() == ["ab", "ab"]
    told = capsys.readouterr().out
    assert "skipped own.jsonl, line 3: " in told and reason in told, told


def test_files_of_ink_have_their_folders_as_writers(tmp_path):
    write_greek(tmp_path / "g.jsonl", lines=4)
    inks = [Ink(to_points([np.array(s) for s in r["strokes"]]), r["text"]) for r in read_rows(tmp_path / "g.jsonl")]
    for number, ink in enumerate(inks):
        place = tmp_path / "own" / "anna" / f"{number}.{('inkml', 'npz', 'json', 'svg')[number]}"
        place.parent.mkdir(parents=True, exist_ok=True)
        ink.save(place)
    save([stack_lines(inks[:2])], tmp_path / "own" / "ben.inkml")
    (tmp_path / "own" / "bad.inkml").write_bytes(b"<ink")
    data = prepare(tmp_path / "own")
    names = dict(zip(data.names.tolist(), data.texts.tolist(), strict=True))
    assert names == {f"anna-{n:04}": ink.text for n, ink in enumerate(inks, 1)} | {
        f"ben-{n:04}": ink.text for n, ink in enumerate(inks[:2], 1)
    }


def test_what_cannot_be_is_refused_before_the_work(greek, tmp_path):
    (tmp_path / "own.npz").write_bytes(b"")
    for source, flags, word in (
        (greek, ["--output", greek], "is the source"), (tmp_path / "none", [], "no such file"),
        (tmp_path, ["--by_writer"], "no usable line"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=word):
            data_preprocessing.main(["--source", str(source), "--output", str(tmp_path / "o.npz"), *map(str, flags)])
    (tmp_path / "lineStrokes").mkdir()
    with pytest.raises(InputError, match="own; leave them out"):
        data_preprocessing.main(["--source", str(tmp_path), "--output", str(tmp_path / "o.npz"), "--by_writer"])


def test_another_alphabet_is_learned_from_a_network_of_another(greek, checkpoints, tmp_path):
    prepare(greek)
    flags = ["--data", greek.parent / "greek-made.npz", "--model_dir", tmp_path, "--num_epochs=1", "--processes=1"]
    train.main([*map(str, flags), "--task=synthesis", f"--init={checkpoints}/blanks.pt", "--sample_every=0"])
    model, content = load_checkpoint(tmp_path / "synthesis_best.pt")
    assert set(content["charset"]) <= set(WORDS) and model.config.cell_size == 8
    assert model.std.tolist() == [40, 35]  # stays the network's own


def test_another_alphabet_is_learned_written_and_read(greek, tmp_path, run_here):
    """A note says that the shipped recogniser cannot read it; one trained on the same data can."""
    prepare(greek)
    data = greek.parent / "greek-made.npz"
    sizes = ["--num_layers=1", "--cell_size=8", "--num_epochs=1", "--sample_every=0", "--processes=1"]
    for task in ("synthesis", "read"):
        train.main(["--task", task, "--data", str(data), "--model_dir", str(tmp_path), *sizes])
    flags = ["--checkpoint", tmp_path / "synthesis_best.pt", "--steps", 60, "--retries", 1]
    flags += ["--output", tmp_path / "line.json"]
    tell_unread.cache_clear()
    result = run_here(generate.main, "λέξη", *flags)
    assert result.returncode in (0, 3) and "the recogniser does not know all characters" in result.stderr
    assert json.loads((tmp_path / "line.json").read_bytes())["lines"][0]["text"] == "λέξη"
    tell_unread.cache_clear()
    result = run_here(generate.main, "λέξη", *flags, "--recogniser", tmp_path / "read_best.pt")
    assert result.returncode == 3 and "it reads" in result.stderr and "does not know" not in result.stderr
    assert_refused(run_here(generate.main, "λέξη Z", *flags), "'Z'")
