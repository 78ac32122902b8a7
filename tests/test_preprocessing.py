"""data_preprocessing.py on small hand-made sources in the layout of IAM-OnDB."""

import gzip
import io
import os
import re
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections import Counter
from dataclasses import fields
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, assert_refused, run_script

import data_preprocessing as dp
from handwriting.data import dataset as dataset_room
from handwriting.data import sources
from handwriting.data.dataset import Dataset, load_dataset, save_dataset
from handwriting.data.recordings import LONGEST_STEP, clean_strokes, read_recording, read_strokes, to_offsets
from handwriting.data.transcriptions import tidy_texts
from handwriting.program import InputError
from handwriting.strokes import SHORTEST_STEP

# Form: its transcription as found in the file (None: there is no file), and the numbers of its line files.
FORMS = {
    "a01-000u": (["Quick foxes , 7 of them .", "sleep on Joe ' s mat", "Z & X @ 0123456789 %"], (1, 3)),
    "b02-010x": (["All # crossed out", "an * asterisk", "a score of 1/2"], (1, 2, 3)),
    "c03-020": (["only one line of text"], (1, 2)),
    "d04-031b": (["caf\xe9 at 9 ( or 10 )", "a second line", "and a third"], (1, 2)),
    "e05-040c": (None, (1,)),
    "f06-052d": (["its second line of strokes is broken"], (1,)),
}
TEXTS = {  # what is to become of it
    "a01-000u-01": "Quick foxes, 7 of them.", "a01-000u-03": "Z & X @ 0123456789 %",
    "b02-010x-01": "", "b02-010x-02": "", "b02-010x-03": "a score of 1/2",
    "c03-020-01": "", "c03-020-02": "", "d04-031b-01": "caf\xe9 at 9 (or 10)", "d04-031b-02": "a second line",
    "e05-040c-01": "", "f06-052d-01": "",
}  # fmt: skip
LISTS = {"trainset": "a01-000u e05-040c", "testset_f": "b02-010x", "testset_t": "c03-020", "testset_v": "d04-031b"}
TRAINING_LINES = [name for name in TEXTS if name[0] in "abce"]
GOOD = [[(10, 10, 1.0), (20, 10, 1.01)]]  # the strokes of a line file without faults


def strokes_of(name):
    """Strokes of a line, each (n, 3): x, y, time; its own for each name, with nothing to mend."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    sizes = random.integers(1, 9, random.integers(2, 6))
    positions = [3000, 1500] + np.cumsum(random.integers(-40, 41, (sizes.sum(), 2)), axis=0)
    return np.split(np.column_stack([positions, 750 + 0.01 * np.arange(sizes.sum())]), np.cumsum(sizes)[:-1])


def rows_of(name):
    """What a line is to become: offsets and end-of-stroke bit, point by point."""
    points = [(x, y, i == len(stroke) - 1) for stroke in strokes_of(name) for i, (x, y, _) in enumerate(stroke)]
    return [(0, 0, points[0][2])] + [(x - u, y - v, end) for (u, v, _), (x, y, end) in pairwise(points)]


def line_xml(strokes, doctype="", inside=""):
    """A line file; `inside` stands in the last stroke."""
    points = ["".join(f'<Point x="{x:.0f}" y="{y:.0f}" time="{t:.2f}"/>\n' for x, y, t in stroke) for stroke in strokes]
    body = "</Stroke>\n<Stroke>\n".join(points)
    return (
        f'<?xml version="1.0" encoding="ISO-8859-1"?>\n{doctype}<WhiteboardCaptureSession>\n<WhiteboardDescription>'
        f'<SensorLocation x="6512" y="1376"/></WhiteboardDescription>\n<StrokeSet>\n<Stroke>\n{body}{inside}</Stroke>\n'
        "</StrokeSet>\n</WhiteboardCaptureSession>\n"
    ).encode("latin-1")


def line_path(form, number):
    return f"lineStrokes/{form[:3]}/{form[:7]}/{form}-{number:02}.xml"


def source_files(forms=FORMS, lists=LISTS):
    """Path and bytes of the files of a source."""
    files = {f"{name}.txt": f" {forms}".replace(" ", "\n ").encode() for name, forms in lists.items()}
    for form, (texts, numbers) in forms.items():
        if texts is not None:
            lines = "OCR:\n\nread by a machine\n\nCSR:\n\n" + "\n\n".join(texts) + "\n\n"
            files[f"ascii/{form[:3]}/{form[:7]}/{form}.txt"] = lines.encode("latin-1")
        files |= {line_path(form, number): line_xml(strokes_of(f"{form}-{number:02}")) for number in numbers}
    return files | ({line_path("f06-052d", 2): line_xml(GOOD)[:-40]} if forms is FORMS else {})


def put(folder, files, packed=False):
    """Write a source to `folder`, its two folders as they are or as archives with the last file first."""
    folder.mkdir(parents=True, exist_ok=True)
    for top in ("lineStrokes", "ascii") if packed else ():
        with tarfile.open(folder / f"{top}-all.tar.gz", "w:gz") as archive:
            for path in reversed([path for path in files if path.startswith(top)]):
                entry = tarfile.TarInfo(path)
                entry.size = len(files[path])
                archive.addfile(entry, io.BytesIO(files[path]))
    for path, data in files.items():
        if not packed or "/" not in path:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
    return folder


def cleaned(*strokes):
    """Positions as tuples, ends and counts of strokes given as lists of (x, y, time)."""
    positions, ends, counts = clean_strokes(*read_strokes(line_xml(strokes)))
    return [tuple(position) for position in positions], ends.tolist(), counts


def prepare(source, output=None, *flags):
    """The data set that the program makes of a source."""
    output = output or source.parent / f"{source.name}.npz"
    dp.main(["--source", str(source), "--output", str(output), *flags])
    return load_dataset(output)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The file made of the whole hand-made source."""
    folder = tmp_path_factory.mktemp("prepared")
    prepare(put(folder / "source", source_files()), folder / "data.npz")
    return folder / "data.npz"


# ------------------------------------------------------------------------------------------------------------ the file


def test_archives_folders_and_a_second_run_give_the_same_bytes(prepared, tmp_path):
    packed = put(tmp_path / "packed", source_files(), packed=True)
    for source in (packed, prepared.parent / "source"):
        prepare(source, tmp_path / "new" / "data.npz")
        assert (tmp_path / "new" / "data.npz").read_bytes() == prepared.read_bytes()


def test_every_line_has_its_points_and_text(prepared):
    data = load_dataset(prepared)
    assert dict(zip(data.names.tolist(), data.texts.tolist(), strict=True)) == TEXTS
    for line, name in enumerate(data.names.tolist()):
        points, written = data.points(line), np.concatenate(strokes_of(name))[:, :2]
        assert points.dtype == np.float32 and points.tolist() == [list(map(float, row)) for row in rows_of(name)]
        assert points[0, :2].tolist() == [0, 0] and (written[0] + np.cumsum(points[:, :2], axis=0) == written).all()
        assert points[:, 2].sum() == len(strokes_of(name)) and points[-1, 2] == 1


def test_statistics_are_those_of_the_training_lines(prepared):
    data = load_dataset(prepared)
    offsets = np.array([row[:2] for name in TRAINING_LINES for row in rows_of(name)], dtype=float)
    mean = offsets.sum(axis=0) / len(offsets)
    assert np.allclose(data.mean, mean, rtol=1e-12)
    assert np.allclose(data.std, np.sqrt(((offsets - mean) ** 2).sum(axis=0) / len(offsets)), rtol=1e-12)


def test_charset_is_of_all_lines_and_counts_of_the_training_lines(prepared):
    data = load_dataset(prepared)
    assert "".join(data.charset) == "".join(sorted(set("".join(TEXTS.values()))))
    assert set("0123456789QXZ&@%/(\xe9") < set(data.charset) and not set("#*A") & set(data.charset)
    counts = Counter("".join(TEXTS[name] for name in TRAINING_LINES))
    assert dict(zip(data.charset, data.char_counts, strict=True)) == {char: counts[char] for char in data.charset}
    assert counts["\xe9"] == 0 < counts["Q"]


def test_saved_file_loads_without_pickle_and_unchanged(prepared, tmp_path):
    data = load_dataset(prepared)
    save_dataset(data, tmp_path / "copy.npz")
    with zipfile.ZipFile(tmp_path / "copy.npz") as file:
        assert {entry.date_time[0] for entry in file.infolist()} == {1980}  # else no two runs give the same bytes
    with np.load(tmp_path / "copy.npz", allow_pickle=False) as file:
        assert sorted(file) == sorted(field.name for field in fields(Dataset))
        for name, array in file.items():
            assert array.dtype == getattr(data, name).dtype and (array == getattr(data, name)).all()


def test_paths_may_be_strings(prepared, tmp_path):
    save_dataset(load_dataset(str(prepared)), str(tmp_path / "copy.npz"))
    assert (tmp_path / "copy.npz").read_bytes() == prepared.read_bytes()


def test_a_failed_write_leaves_the_older_file(prepared, tmp_path, monkeypatch):
    data = load_dataset(prepared)
    (tmp_path / "data.npz").write_bytes(b"older")
    monkeypatch.delattr(np.lib.format, "write_array")
    with pytest.raises(AttributeError):
        save_dataset(data, tmp_path / "data.npz")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"older"]


class Trap:
    """Unpickled, it makes a folder."""

    def __reduce__(self):
        return os.mkdir, ("trapped",)


@pytest.mark.parametrize(
    "name, change",
    [
        ("charset", None), ("charset", lambda charset: charset[0]), ("offsets", lambda offsets: offsets[0, 0]),
        ("names", lambda names: np.array([Trap()] * len(names))),
        ("offsets", lambda offsets: offsets.astype(float)), ("ends", lambda ends: ends[:-1]),
        ("starts", lambda starts: np.maximum(starts, 1)), ("starts", lambda starts: starts * 2),
        ("starts", lambda starts: np.r_[0, starts[2], starts[2:]]),
        ("starts", lambda starts: np.r_[0, 2**62, starts[2:]]), ("starts", lambda starts: np.r_[0, -2, starts[2:]]),
        ("starts", lambda starts: np.r_[0, 2**63 - 1, starts[2:]]), ("starts", lambda starts: np.r_[0, 1, starts[2:]]),
        ("starts", lambda starts: starts[::-1]),
        ("offsets", lambda offsets: offsets + np.int64(2**62)),
        ("offsets", lambda offsets: np.where(offsets == 0, np.int64(-(2**63)), 0)),
        ("offsets", lambda offsets: np.where(offsets == 0, 30001, 0)),
        ("std", np.zeros_like), ("mean", lambda mean: mean + np.nan), ("mean", lambda mean: mean + 1e10),
        ("std", lambda std: std * 1e-300), ("std", lambda std: std * 1e300), ("std", np.negative),
        ("splits", lambda splits: np.array(["test"] * len(splits))),
        ("charset", lambda charset: np.r_[[""], charset[1:]]), ("charset", lambda charset: charset[::-1]),
        ("charset", lambda charset: np.r_[charset[:-1], charset[-2:-1]]),
        ("charset", lambda charset: np.r_[charset[:-1], ["zz"]]),
        ("charset", lambda charset: np.r_[["\x07"], charset[1:]]),
        ("texts", lambda texts: np.r_[["caf\xe8"], texts[1:]]), ("texts", lambda texts: np.r_[["a\x07"], texts[1:]]),
        ("char_counts", np.negative), ("char_counts", lambda counts: counts + 99),
        ("char_counts", lambda counts: counts + 2**62),
    ],
)  # fmt: skip
def test_a_file_of_another_form_is_refused(name, change, prepared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with np.load(prepared) as file:
        arrays = dict(file)
    old = arrays.pop(name)
    np.savez("data.npz", **arrays, **({name: change(old)} if change else {}))
    with pytest.raises(InputError, match=r"data\.npz: not a data set"):
        load_dataset(Path("data.npz"))
    assert not Path("trapped").exists()


def test_a_data_set_that_unpacks_to_too_much_is_refused(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_room, "MAX_DATASET_BYTES", 500)
    with pytest.raises(InputError, match="unpacked"):
        load_dataset(prepared)


@pytest.mark.parametrize("damage", ["missing", "folder", "empty", "text", "npy", "cut", "flipped"])
def test_a_damaged_file_is_refused(damage, prepared, tmp_path):
    path, whole = tmp_path / "data.npz", bytearray(prepared.read_bytes())
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        whole[whole.index(b"offsets.npy") + 60] ^= 16
        np.save(npy := io.BytesIO(), np.zeros(3))
        contents = {"empty": b"", "text": b"hello", "npy": npy.getvalue(), "cut": whole[:-100], "flipped": whole}
        path.write_bytes(contents[damage])
    with pytest.raises(InputError, match=r"data\.npz: "):
        load_dataset(path)


# --------------------------------------------------------------------------------------------------------------- texts

TIDIED = [  # lines of a form as transcribed, and tidied; "|" is the end of a line
    # Points of an ellipsis that are set apart join the word; those that stand together keep the blank before them.
    ("we waited . . . then left", "we waited... then left"), (". . . and so on", "... and so on"), ("well ...",) * 2,
    # A number keeps its commas and its point, but not a comma that ends it.
    ("2 , 415 , 000 or 3 . 50", "2,415,000 or 3.50"), ("in 7 , or 8 , days", "in 7, or 8, days"), ("the .22 bore",) * 2,
    # An apostrophe with a short ending belongs to the word, though it may begin the next line.
    ("Lark ' s boat, they 'll sail , I ' d say", "Lark's boat, they'll sail, I'd say"), ("You | ' re", "You | 're"),
    # A mark that closes has no blank before it, a bracket that opens has none after it.
    ("( so it was ) , [ sic ] ; why ?", "(so it was), [sic]; why?"),
    # A full stop belongs to the word before it.
    ("Mr . Lark and Mr .Moor", "Mr. Lark and Mr. Moor"),
    # A quotation mark belongs to the word after it if it opens a quotation, to the word before it if it closes one.
    ('" Good day , " she said .', '"Good day," she said.'), ("a ' yes ' or a ' no '", "a 'yes' or a 'no'"),
    # A quotation may go on in the next line, or have begun before the form did.
    ('They hired a " brass | band " to play .', 'They hired a "brass | band" to play.'),
    ('will you ? " she asked', 'will you?" she asked'),
    # Of two marks in a row the first closes and the second opens, unless both close or both open.
    ('" Ready ? " " Not yet .', '"Ready?" "Not yet.'), ("a ' \" yes \" '", "a '\"yes\"'"),
    # The apostrophe of a plural opens no quotation, unless a later mark closes it.
    ("the workers ' meeting", "the workers' meeting"), ("he plays ' golf ' with us", "he plays 'golf' with us"),
    # A mark that touches a word on one side stays there.
    ("rock 'n' roll",) * 2, ('it was late. "Tom left | the house." Good bye.',) * 2,
    # other cases of the same rules
    ("Mr .Lark can ' t", "Mr. Lark can't"), ("it 's what they 'll say I ' d do", "it's what they'll say I'd do"),
    ("wait ! why ? tea , milk ; so : etc . , yes", "wait! why? tea, milk; so: etc., yes"),
    ("we waited . . . then left .", "we waited... then left."), ("  blanks \t of  all kinds ", "blanks of all kinds"),
    ("' Good day , ' she said .", "'Good day,' she said."), ('said Tom . " Come in . "', 'said Tom. "Come in."'),
    ('" Yes " , he said', '"Yes", he said'), ('a " yes " or a " no "', 'a "yes" or a "no"'),
    ("don't say ' yes ' now", "don't say 'yes' now"),  # within a word it is no quotation mark
    # what is as it should be
    *((text, text) for text in (
        "", "1/2", "don't", "up... down", "2,415", "3.5", "U.S.A.", "the boys' toys", "in 7, 8 or 9", "a 's' sound",
        "mother-in-law - well", "'Stop,' he said.", "5 + 4 & 3 %",
    )),
    # a quotation that goes on from the line above
    ("She sang ' Home | at Last ' again .", "She sang 'Home | at Last' again."),
    ('" Stay , " he said . " I | will . " He left . " Why ? "', '"Stay," he said. "I | will." He left. "Why?"'),
    ('He said : " | Come in . " She came .', 'He said:" | Come in." She came.'),
    # one that began before the form did
    ('will you ? " she said . " No . | I shall . " He did .', 'will you?" she said. "No. | I shall." He did.'),
    # a mark at the end of a line belongs to that line, at the beginning of one to that one
    ('so he left . " | " Why ? " we asked .', 'so he left." | "Why?" we asked.'),
    # two marks in a row
    ('" Ready ? " " Not yet . | Wait . "', '"Ready?" "Not yet. | Wait."'),
    ('He spoke . "" We know .', 'He spoke." "We know.'), ('" " Then go', '" "Then go'),
    ('" \' Sir , \' he called me . "', '"\'Sir,\' he called me."'),
    ('" He called me \' sir . \' " We laughed .', '"He called me \'sir.\'" We laughed.'), ("rock 'n' roll",) * 2,
    ("it 's late", "it's late"), ("You | ' re sure", "You | 're sure"),
    ('" Never . " \' Maybe , \' he said .', '"Never." \'Maybe,\' he said.'),
    # a plural's apostrophe
    ("workers ' and masters ' clubs at | St . Olave ' s , the bakers ' | hall",
     "workers' and masters' clubs at | St. Olave's, the bakers' | hall"),
    ("' The boys ' said Tom | and ' left '", "'The boys' said Tom | and 'left'"),
    # what touches a word on one side stays there
    ('he ( " the boss " ) said " ... and so', 'he ("the boss") said "... and so'),
    (' | " a " | ', ' | "a" | '),
]  # fmt: skip


@pytest.mark.parametrize("lines, tidied", TIDIED)
def test_texts_are_tidied(lines, tidied):
    lines, tidied = lines.split(" | "), tidied.split(" | ")
    assert tidy_texts(lines) == tidied and tidy_texts(tidied) == tidied


def test_an_underscore_is_no_end_of_a_word():
    assert tidy_texts(["bees '_ hum '"]) == ["bees '_ hum'"] and tidy_texts(["bees 'a hum '"]) == ["bees 'a hum'"]


def test_tidying_is_linear_in_the_number_of_marks():
    # with quadratic effort this takes a minute
    assert tidy_texts(['" a " ' * 20_000, "bees ' "]) == [" ".join(['"a"'] * 20_000), "bees'"]
    assert tidy_texts(["bees ' " * 20_000]) == [" ".join(["bees'"] * 20_000)]
    assert tidy_texts(["bees '_ " * 50_000])[0].count("_") == 50_000


# ------------------------------------------------------------------------------------------------------------- strokes


@pytest.mark.parametrize(
    "move, seconds, filled",
    [((90, 0), 0.08, 4), ((-150, 0), 0.08, 5), ((60, -80), 0.08, 5), ((-7, 19), 0.50, 1), ((300, 0), 0.10, 7)],
)
def test_lost_readings_are_filled_in_on_a_straight_line(move, seconds, filled):
    (x, y), (right, down) = (2000, 1000), move
    stroke = [(x - 9, y, 5.00), (x, y, 5.01), (x + right, y + down, 5.01 + seconds), (x + right, y + 9, 5.02 + seconds)]
    positions, ends, counts = cleaned(stroke, [(x, y, 5.22 + seconds), (x, y, 5.23 + seconds)])
    assert counts["filled"] == filled and counts["cut"] == 0
    for k, position in enumerate(positions[1 : filled + 3]):
        exact = (x + right * k / (filled + 1), y + down * k / (filled + 1))
        assert max(abs(position[axis] - exact[axis]) for axis in (0, 1)) <= 0.5
    assert positions[:2] + positions[2 + filled :] == [point[:2] for point in stroke] + [(x, y)] * 2
    assert [i for i, end in enumerate(ends) if end] == [3 + filled, 5 + filled]


@pytest.mark.parametrize(
    "right, down, seconds",
    [(60, 0, 0.04), (60, 0, 7200), (60, 0, -7200), (60, 0, -0.08), (60, 0, 0.6), (0, 0, 0.3), (9, 9, 0.3)],
    ids=["no gap", "clock forward", "clock back", "clock back a little", "too long", "resting", "nearly resting"],
)
def test_no_reading_is_made_up(right, down, seconds):
    stroke = [(2000, 1000, 8000.0), (2005, 1000, 8000.01), (2005 + right, 1000 + down, 8000.01 + seconds)]
    positions, ends, counts = cleaned(stroke)
    assert positions == [point[:2] for point in stroke] and ends == [False, False, True]
    assert counts["filled"] == counts["cut"] == 0


def test_a_long_step_ends_the_stroke_and_jumps_between_strokes_stay():
    across = np.cumsum([0, 10, LONGEST_STEP, 10, LONGEST_STEP + 1, 10])  # only the second of the two is too long
    first = [(x, 50, 1 + i / 100) for i, x in enumerate(across)]
    second = [(9000, 900, 1.06), (9000, 899 - LONGEST_STEP, 1.07)]
    positions, ends, counts = cleaned(first, second)
    assert positions == [point[:2] for point in first + second]
    assert ends == [False, False, False, True, False, True, True, True]
    assert counts["cut"] == 2 and counts["filled"] == 0


def test_a_step_too_long_for_ink_is_not_filled_in_with_dots():
    # the points that are filled in are still too far apart and become strokes of one point each
    positions, ends, counts = cleaned([(0, 0, 1.00), (10, 0, 1.01), (910, 0, 1.06), (920, 0, 1.07)])
    assert positions == [(0, 0), (10, 0), (910, 0), (920, 0)] and ends == [False, True, False, True]
    assert counts["filled"] == 0 and counts["cut"] == 1


def resting_strokes(seed, scale):
    """Strokes (n, 2) of one to sixty points, of which some are one point and most steps are of a few units."""
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 60, 12) * (random.random(12) < 0.7) + 1
    return [3000 + np.cumsum(np.rint(random.normal(0, scale, (size, 2))), axis=0) for size in sizes]


def without_rests(positions, ends):
    """Positions and end-of-stroke bits that are left, as lists."""
    offsets, left = to_offsets(positions, ends, keep_rests=False)
    assert offsets.dtype == np.int16 and left.dtype == bool and not offsets[0].any()
    return (positions[0] + np.cumsum(offsets, axis=0, dtype=int)).tolist(), left.tolist()


@pytest.mark.parametrize("scale", [0, 0.5, 1, 2, 9])
def test_points_where_the_pen_rests_are_dropped(scale):
    strokes = resting_strokes(7, scale)
    kept = []
    for stroke in strokes:
        places = [0]
        while places[-1] < len(stroke) - 1:  # on to the first point that is far enough away, or else to the last one
            squares = ((stroke[places[-1] + 1 :] - stroke[places[-1]]) ** 2).sum(1)
            far = np.flatnonzero(squares >= SHORTEST_STEP**2)
            places.append(places[-1] + 1 + int(far[0]) if len(far) else len(stroke) - 1)
        kept += [place in places for place in range(len(stroke))]
    ends = np.concatenate([np.arange(len(stroke)) == len(stroke) - 1 for stroke in strokes])
    positions = np.concatenate(strokes)
    assert without_rests(positions, ends) == (positions[kept].tolist(), ends[kept].tolist())
    assert kept.count(False) > (200 if scale < 1 else 0)


def test_a_point_as_far_away_as_the_shortest_step_stays():
    step = SHORTEST_STEP
    stroke = np.array([[0, 0], [step - 1, 0], [step - 1, 1], [0, step], [1, step], [2, step], [2, step]])
    strokes = np.concatenate([stroke, stroke[-1:], stroke[-1:], stroke[-1:]])  # and a point, and one of two points
    ends = np.array([False] * 6 + [True, True, False, True])
    expected = [True, False, False, True, False, False, True, True, True, True]
    assert without_rests(strokes, ends) == (strokes[expected].tolist(), ends[expected].tolist())


def test_keep_rests_keeps_every_point_and_the_file_says_so(tmp_path, capsys):
    strokes = [[(*point, 7 + place / 100) for place, point in enumerate(stroke)] for stroke in resting_strokes(3, 1.5)]
    source = put(tmp_path / "source", {"ascii/a.txt": b"CSR:\n", line_path("a01-000u", 1): line_xml(strokes)})
    made = {}
    for flag in ([], ["--keep_rests"]):
        data = prepare(source, None, *flag)
        made[bool(data.has_rests)] = (data, capsys.readouterr().out)
    (dropped, said), (kept, said_of_kept) = made[False], made[True]
    assert len(kept.offsets) == sum(map(len, strokes)) and dropped.ends.sum() == kept.ends.sum() == len(strokes)
    assert (kept.rests, dropped.rests) == ("rests kept", "rests dropped")
    number = len(kept.offsets) - len(dropped.offsets)
    assert number > 50 and f"\n{number} points where the pen rests dropped (less than 3 units from" in said
    assert "points where the pen rests are kept\n" in said_of_kept and "dropped" not in said_of_kept
    positions, ends = np.cumsum(kept.offsets, axis=0), kept.ends  # what stays is where it was
    assert (np.cumsum(dropped.offsets, axis=0).tolist(), dropped.ends.tolist()) == without_rests(positions, ends)


BAD_XML = {
    "empty": b"", "cut off": line_xml(GOOD)[:-40], "no points": line_xml([[]]), "one point": line_xml([GOOD[0][:1]]),
    "word": line_xml(GOOD).replace(b'"20"', b'"ten"'), "nan": line_xml(GOOD).replace(b'"20"', b'"nan"'),
    "no time": line_xml(GOOD).replace(b'time="1.01"', b""), "far away": line_xml(GOOD).replace(b'"20"', b'"20000"'),
    "something else": line_xml(GOOD, inside="<Note/>"),
}  # fmt: skip


def read_lines(*files):
    """Recordings by name of line files given as name and bytes, and what is wrong with the other files."""
    return dp.read_all(files, partial(read_recording, keep_rests=True))


@pytest.mark.parametrize("data", BAD_XML.values(), ids=BAD_XML)
def test_an_unusable_line_file_is_named_and_the_next_one_read(data):
    good, bad = read_lines(("bad", data), ("good", line_xml(GOOD)))
    assert [*bad] == ["bad"] and bad["bad"]
    assert [*good] == ["good"] and good["good"].offsets.tolist() == [[0, 0], [10, 0]]


EXTERNAL = '<!DOCTYPE l SYSTEM "{other}">'
BOMB = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 9))
DOCTYPES = {
    "plain": "<!DOCTYPE l>", "external": EXTERNAL, "after a comment": f"<!-- {'a line ' * 9999}-->\n{EXTERNAL}",
    "parameter entity": '<!DOCTYPE l [<!ENTITY % p SYSTEM "{other}"> %p;]>',
    "bomb": f'<!DOCTYPE l [<!ENTITY e0 "7777777777">{BOMB}<!ENTITY v "&e8;">]>',
}  # fmt: skip


@pytest.mark.parametrize("encoding", ["ISO-8859-1", "UTF-8", "UTF-16", "UTF-32", "UTF-7", "CP037"])
@pytest.mark.parametrize("doctype", DOCTYPES.values(), ids=DOCTYPES)
def test_a_file_with_a_doctype_is_refused_and_no_other_file_read(doctype, encoding, tmp_path):
    (tmp_path / "other").write_text('<!ENTITY v "777">')
    doctype = doctype.replace("{other}", (tmp_path / "other").as_uri())
    text = line_xml(GOOD, doctype, '<Point x="&v;" y="1" time="1.02"/>').decode("latin-1")
    data = text.replace("ISO-8859-1", encoding).encode(encoding)
    with pytest.raises(ValueError) as refused:
        read_recording(data, True)
    is_read = encoding not in ("UTF-32", "UTF-7", "CP037")
    assert ("DOCTYPE" in str(refused.value)) == is_read


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-8-sig", "UTF-16", "US-ASCII"])
def test_files_without_a_doctype_are_read_in_other_encodings(encoding):
    comment = "<!-- no <!DOCTYPE l SYSTEM 'file:///'> -->"
    text = line_xml(GOOD, comment).decode("latin-1").replace("ISO-8859-1", encoding.removesuffix("-sig"))
    assert read_recording(text.encode(encoding), True).offsets.tolist() == [[0, 0], [10, 0]]


@pytest.mark.parametrize("packed", [False, True])
def test_an_oversized_file_is_skipped_and_never_read_whole(packed, tmp_path, monkeypatch):
    for module in (dp, sources):
        monkeypatch.setattr(module, "LARGEST_FILE", 2000)
    files = {line_path("a01-000u", 1): line_xml(GOOD), line_path("a01-000u", 2): line_xml(GOOD) + b" " * 5000}
    found = dict(dp.read_files(put(tmp_path, files, packed), "lineStrokes", ".xml"))
    good, bad = read_lines(*found.items())
    assert [*good] == ["a01-000u-01"] and len(good["a01-000u-01"].ends) == 2
    assert [*bad] == ["a01-000u-02"] and "larger" in bad["a01-000u-02"] and len(found["a01-000u-02"]) == 2001


# -------------------------------------------------------------------------------------------------------------- source


def test_a_damaged_archive_is_never_taken_for_a_whole_one(tmp_path):
    # bits that flip and an end that is missing show in the checksum of the .gz alone
    archive = put(tmp_path, source_files(), packed=True) / "lineStrokes-all.tar.gz"
    whole, content = archive.read_bytes(), list(dp.read_files(tmp_path, "lineStrokes", ".xml"))
    damaged = {f"cut at {n}": whole[:n] for n in range(0, len(whole), 11)}
    damaged |= {f"flipped at {n}": whole[:n] + bytes([whole[n] ^ 4]) + whole[n + 1 :] for n in range(2, len(whole), 11)}
    unnoticed = []
    for damage, data in damaged.items():
        archive.write_bytes(data)
        try:
            unnoticed += [damage] if list(dp.read_files(tmp_path, "lineStrokes", ".xml")) != content else []
        except InputError as error:
            assert archive.name in str(error)
    assert not unnoticed


def test_splits_by_the_lists(prepared):
    data = load_dataset(prepared)
    forms = {name.rpartition("-")[0]: split for name, split in zip(data.names, data.splits, strict=True)}
    assert forms == {form: {"d": "validation", "f": "unlisted"}.get(form[0], "train") for form in FORMS}
    assert data.names[data.lines("validation", False)].tolist() == ["d04-031b-01", "d04-031b-02"]
    assert data.names[data.lines("train", True)].tolist() == [name for name in TRAINING_LINES if TEXTS[name]]


def test_splits_without_lists_depend_on_the_form_alone(tmp_path):
    many = {f"k{n:02}-{n:03}": (["one", "two", "three"], (1, 2, 3)) for n in range(24)}
    few = {form: (texts, (1, 2)) for form, (texts, _) in list(many.items())[1::2]}
    built = [prepare(put(tmp_path / str(len(f)), source_files(f, {}))) for f in (few, many)]
    before, after = (dict(zip(data.names.tolist(), data.splits.tolist(), strict=True)) for data in built)
    assert before == {name: after[name] for name in before} and set(before.values()) == {"train", "validation"}
    assert all(after[f"{form}-01"] == after[f"{form}-02"] == after[f"{form}-03"] for form in many)
    validation = [form for form in many if after[f"{form}-01"] == "validation"]
    assert validation == ["k01-001", "k13-013"]  # on any machine and in any later version


@pytest.mark.skipif("IAM_ONDB" not in os.environ, reason="IAM_ONDB does not name the folder of IAM-OnDB")
def test_iam_ondb(tmp_path, capsys):
    source = Path(os.environ["IAM_ONDB"])
    data = prepare(source, tmp_path / "data.npz")
    forms = np.array([name.rpartition("-")[0] for name in data.names.tolist()])
    assert len(data.names) == 12194 and len(set(forms)) == 1730
    assert np.isin(forms, (source / "trainset.txt").read_text().split()).sum() == 5364
    assert Counter(data.splits.tolist()) == {"train": 5364 + 1518 + 3859, "validation": 1438, "unlisted": 15}
    assert (data.texts[np.isin(forms, ["a08-551z", "z01-000z"])] == "").all()
    assert "kept for prediction only: a08-551z z01-000z\n" in capsys.readouterr().out
    assert set("QXZ0123456789") < set(data.charset) and not set("#*") & set(data.charset)


# ---------------------------------------------------------------------------------------------- bad input, to the user


def cut_archive(folder, name):
    path = put(folder, source_files(), packed=True) / f"{name}-all.tar.gz"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def with_lists(folder, **lists):
    put(folder, source_files(lists={name: forms for name, forms in (LISTS | lists).items() if forms}))


BAD_SOURCES = {  # what is wrong: how to make it, and what the message is to name
    "missing": (lambda folder: None, "source: no such file or folder"),
    "empty": (lambda folder: folder.mkdir(), "source: holds neither"),
    "texts cut off": (lambda folder: cut_archive(folder, "ascii"), "ascii-all.tar.gz: damaged"),
    "list missing": (lambda folder: with_lists(folder, testset_t=None), "testset_t.txt"),
    "form on two": (lambda folder: with_lists(folder, testset_v="d04-031b c03-020"), "form c03-020"),
    "strokes cut off": (lambda folder: cut_archive(folder, "lineStrokes"), "lineStrokes-all.tar.gz: damaged"),
    "all broken": (lambda folder: put(folder, dict.fromkeys(source_files(lists={}), b"<W>")), "source: no usable"),
}


@pytest.mark.parametrize("make, named", BAD_SOURCES.values(), ids=BAD_SOURCES)
@pytest.mark.parametrize("older", [b"an older file", None], ids=["older output", "no output"])
def test_a_bad_source_is_refused_and_nothing_is_written(make, named, older, tmp_path, capfd):
    make(tmp_path / "source")
    output = tmp_path / "out" / "data.npz"
    output.parent.mkdir()
    if older:
        output.write_bytes(older)
    with pytest.raises(InputError, match=re.escape(named)):
        prepare(tmp_path / "source", output)
    assert [path.read_bytes() for path in output.parent.iterdir()] == ([older] if older else [])
    assert capfd.readouterr().err == ""  # from the workers either


def test_a_bad_source_ends_the_program_with_one_line(tmp_path):
    cut_archive(tmp_path / "source", "lineStrokes")
    result = run_script("data_preprocessing.py", "--source", tmp_path / "source", "--output", tmp_path / "data.npz")
    assert_refused(result, "lineStrokes-all.tar.gz: damaged")
    assert not (tmp_path / "data.npz").exists()


@pytest.mark.parametrize("output", [".", "a_folder"])
def test_a_folder_as_output_is_refused_by_name(output, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_folder").mkdir()
    with pytest.raises(InputError, match=rf"^{re.escape(output)}: "):
        prepare(put(tmp_path / "source", source_files()), output)


def test_a_broken_line_file_is_skipped_by_name(prepared, tmp_path, capsys):
    files = source_files() | {"lineStrokes/notes.xml": line_xml(GOOD)}
    prepare(put(tmp_path / "source", files), tmp_path / "data.npz")
    assert (tmp_path / "data.npz").read_bytes() == prepared.read_bytes()
    told = capsys.readouterr().out
    assert "skipped f06-052d-02: XML error" in told and "skipped notes: its name" in told
    assert "kept for prediction only: c03-020 f06-052d\n" in told


@pytest.mark.parametrize("packed", [False, True])
def test_what_is_no_regular_file_is_skipped_by_name(packed, prepared, tmp_path, capsys):
    source = put(tmp_path / "source", source_files(), packed)
    extra = {"lineStrokes": "f06-052d-03.xml", "ascii": "g07-000.txt"}
    for top, name in extra.items():
        if packed:
            with gzip.open(source / f"{top}-all.tar.gz") as old:
                files = io.BytesIO(old.read())
            with tarfile.open(fileobj=files, mode="a") as archive:
                entry = tarfile.TarInfo(f"{top}/{name}")
                entry.type = tarfile.FIFOTYPE
                archive.addfile(entry)
            with gzip.open(source / f"{top}-all.tar.gz", "w") as new:
                new.write(files.getvalue())
        else:
            os.mkfifo(source / top / name)
    prepare(source, tmp_path / "data.npz")
    assert (tmp_path / "data.npz").read_bytes() == prepared.read_bytes()
    told = capsys.readouterr().out
    assert "skipped f06-052d-03: no regular file\nskipped g07-000.txt: no regular file\n" in told


HOSTILE_NAMES = {  # of line files, and what is told
    b"a01-000u-\xff\xfe": "a01-000u-\\udcff\\udcfe", b"a01-000u-" + b"9" * 240: "a01-000u-" + "9" * 71,
    b"a01-000u-\x1b[31m01": "a01-000u-\\x1b[31m01", b"a01\n000u-01": "a01 000u-01",
    "a01-000u-\u0663".encode(): "a01-000u-\u0663",
}  # fmt: skip


@pytest.mark.parametrize("packed", [False, True])
def test_hostile_names_are_skipped_and_told_safely(packed, prepared, tmp_path, capsys):
    files = source_files()
    for name in HOSTILE_NAMES:
        files[f"lineStrokes/{os.fsdecode(name)}.xml"] = line_xml(GOOD)
    files[f"ascii/{os.fsdecode(b'h01-0' + bytes([255, 27]))}.txt"] = b"CSR:\n\nabc\n"
    if packed:  # more digits than a file system takes, and than Python converts
        files[f"lineStrokes/a01-000u-{'7' * 5000}.xml"] = line_xml(GOOD)
    prepare(put(tmp_path / "source", files, packed), tmp_path / "data.npz")
    assert (tmp_path / "data.npz").read_bytes() == prepared.read_bytes()
    told, error = capsys.readouterr()
    assert error == "" and "\x1b" not in told and "lines of 6 forms read; 1 more transcriptions\n" in told
    for name in HOSTILE_NAMES.values():
        assert f"skipped {name}: its name is not of the form" in told


BAD_TEXTS = {
    "too large": (b"CSR:\n\nabc\n" + b"\n" * sources.LARGEST_FILE, "larger than 4 MiB"),
    "long line": (b"CSR:\n\n" + b"a" * 1001, "a line of more than 1000 characters"),
    "control character": (b"CSR:\n\nab\x1b[31mc\n", "control characters in its text"),
    "nul": (b"CSR:\n\nabc\0\n", "control characters in its text"),
}


@pytest.mark.parametrize("data, reason", BAD_TEXTS.values(), ids=BAD_TEXTS)
@pytest.mark.parametrize("packed", [False, True])
def test_an_unusable_transcription_is_told_and_left_out_whole(data, reason, packed, tmp_path, capsys):
    files = source_files()
    source = put(tmp_path / "source", files | {"ascii/a01/a01-000/a01-000u.txt": data}, packed)
    texts = prepare(source)
    without = texts.texts[np.char.startswith(texts.names, "a01-000u")].tolist()
    assert not any(without) and "\0" not in "".join(texts.charset)
    output = capsys.readouterr().out
    assert f"skipped a01-000u.txt: {reason}\n" in output and "without a transcription: a01-000u e05-040c\n" in output


def test_a_form_list_may_begin_with_a_byte_order_mark(prepared, tmp_path):
    files = source_files()
    files["testset_v.txt"] = b"\xef\xbb\xbf" + files["testset_v.txt"].strip()
    prepare(put(tmp_path / "source", files), tmp_path / "data.npz")
    assert (tmp_path / "data.npz").read_bytes() == prepared.read_bytes()


def test_an_output_that_cannot_be_written_is_found_before_the_work(tmp_path, capsys):
    source = put(tmp_path / "source", source_files())
    (tmp_path / "file").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    for output in (tmp_path / "file" / "data.npz", tmp_path / "pipe"):
        with pytest.raises(InputError, match=re.escape(f"{output}: ")):
            prepare(source, output)
    assert capsys.readouterr().out == ""


def test_importing_the_script_leaves_torch_alone():
    code = "import sys, data_preprocessing; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
