"""Data sets: batches in several processes, in shards, side by side, and what recognisers learn from."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from batches import write_many
from conftest import ROOT, environment
from PIL import Image

import generate
from handwriting import bulk, checks
from handwriting.alphabet import read_texts
from handwriting.bulk import MANIFEST
from handwriting.program import InputError, ResultError
from handwriting.writer import Writer
from model import kernels

LINES = ["ab", "cab 7", "", "a?b", "ccc", "b a b", "abcabc", "7-7"]  # the fourth has a character that is unknown
NUMBERS = [1, 2, 4, 5, 6, 7, 8]


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(LINES))
    return tmp_path / "texts.txt"


@pytest.fixture
def run(checkpoints, tmp_path):
    """The command line; whether a line reads well does not matter."""

    def run_batch(texts, *flags, retries=0):
        own = ["--batch", texts, "--checkpoint", checkpoints / "hands.pt", "--retries", retries]
        try:
            generate.main([*map(str, [*own, *flags])])
        except ResultError as error:
            return str(error)

    return run_batch


def batch_of(checkpoints, folder, texts=LINES, **given):
    return write_many(texts, folder, **{"ending": "json", "checkpoint": checkpoints / "hands.pt", "retries": 0} | given)


def files_of(folder):
    """All files of a batch and its shards, the manifest among them."""
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


def manifest_of(folder):
    return [json.loads(line) for line in (folder / MANIFEST).read_text().splitlines()]


@pytest.mark.skipif(not kernels, reason="the plain code rounds as libraries do")
def test_a_text_has_the_same_bytes_alone_in_a_batch_and_after_a_stop(checkpoints, tmp_path):
    list(batch_of(checkpoints, tmp_path / "whole", ending="png"))
    whole = files_of(tmp_path / "whole")
    for number in NUMBERS:
        alone = [text if n == number else "" for n, text in enumerate(LINES, 1)]
        list(batch_of(checkpoints, tmp_path / str(number), texts=alone, ending="png"))
        for name, data in files_of(tmp_path / str(number)).items():
            assert name == MANIFEST or data == whole[name], name
    (tmp_path / "whole" / "000005.png").unlink()
    list(batch_of(checkpoints, tmp_path / "whole", ending="png"))
    assert files_of(tmp_path / "whole") == whole
    assert len(whole) == 7


def test_processes_and_shards_write_what_one_process_does(checkpoints, texts, run, tmp_path):
    given = ["--format", "json", "--output"]
    for name, *more in (("one",), ("two", "--processes", 2)):
        assert "line 4" in run(texts, *given, tmp_path / name, *more)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    assert [row["number"] for row in manifest_of(tmp_path / "two")] == NUMBERS
    for number in (1, 2, 3):
        run(texts, *given, tmp_path / "shards", "--shard", f"{number}/3")
        rows = manifest_of(tmp_path / "shards" / f"{number}-of-3")
        assert [row["number"] for row in rows] == [n for n in NUMBERS if n % 3 == number % 3]
        assert all(row in manifest_of(tmp_path / "one") for row in rows)
    assert files_of(tmp_path / "shards").items() - files_of(tmp_path / "one").items() == {
        (MANIFEST, files_of(tmp_path / "shards")[MANIFEST])
    }


def test_of_two_batches_in_a_folder_the_second_is_refused(checkpoints, tmp_path):
    first = batch_of(checkpoints, tmp_path / "out")
    next(first)
    with pytest.raises(InputError, match="out: another batch is on there"):
        next(batch_of(checkpoints, tmp_path / "out"))
    assert len(list(first)) == len(NUMBERS) - 1
    assert len(list(batch_of(checkpoints, tmp_path / "out"))) == len(NUMBERS)  # the first is done


def start_batch(checkpoints, folder, *flags):
    (folder / "many.txt").write_text("\n".join(["ab cab", "7 ab", "cc-a"] * 400))
    own = ["--batch", folder / "many.txt", "--checkpoint", checkpoints / "blanks.pt", "--retries", 0, "--output"]
    command = [sys.executable, ROOT / "generate.py", *own, folder / "out", "--format", "json", *flags]
    return subprocess.Popen(list(map(str, command)), env=environment(), stderr=subprocess.PIPE, start_new_session=True)


def wait_for_rows(folder):
    for _ in range(1200):
        if (folder / "out" / MANIFEST).exists() and len(manifest_of(folder / "out")) > 20:
            return
        time.sleep(0.05)
    pytest.fail("no rows after a minute")


def test_ctrl_c_ends_all_processes_and_the_same_command_goes_on(checkpoints, tmp_path):
    process = start_batch(checkpoints, tmp_path, "--processes", 2)
    wait_for_rows(tmp_path)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it, to all
    assert process.wait(30) == 130 and process.stderr.read() == b""
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.killpg(process.pid, 0)  # until nobody is left
            time.sleep(0.1)
    before, files = manifest_of(tmp_path / "out"), files_of(tmp_path / "out")
    assert 20 < len(before) < 1200 and not [name for name in files if name.endswith(".part")]
    list(
        batch_of(
            checkpoints,
            tmp_path / "out",
            (tmp_path / "many.txt").read_text().split("\n"),
            checkpoint=checkpoints / "blanks.pt",
        )
    )
    after = manifest_of(tmp_path / "out")
    assert [row["number"] for row in after] == [*range(1, 1201)] and all(row in after for row in before)


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(pipe, *_):
    pipe.send(OSError(28, "No space left on device", "disk 7"))
    time.sleep(60)


@pytest.mark.parametrize(("function", "word"), [(die, "ended before its time"), (refuse, "disk 7")])
def test_a_process_that_fails_ends_the_batch_with_one_line(checkpoints, tmp_path, monkeypatch, function, word):
    monkeypatch.setattr(bulk, "serve", function)
    with pytest.raises((InputError, OSError), match=word):
        list(batch_of(checkpoints, tmp_path / "out", processes=2))
    monkeypatch.undo()
    assert len(list(batch_of(checkpoints, tmp_path / "out"))) == len(NUMBERS)  # and the folder is free


class Reader:
    """Reads nothing in a line of few points, and the text of the others."""

    def __init__(self):
        self.config = type("Config", (), {"charset": " -7abc"})

    def read(self, lines):
        return ["abcabc" for _ in lines]


def test_lines_read_wrong_are_left_out(checkpoints, texts, run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checks, "find_recogniser", lambda *_: Reader())
    given = ["--format", "json", "--output", tmp_path / "out", "--labels", "tsv"]
    assert run(texts, *given, "--max_cer", 0.5, retries=1).startswith("not written: line 4: ")
    assert "1 lines, 5 left out by --max_cer, and 1 could not be written" in capsys.readouterr().out
    rows = manifest_of(tmp_path / "out")
    assert [row["number"] for row in rows if row["file"]] == [7]
    assert all(row["fault"] == "left out: it reads 'abcabc'" for row in rows if row["number"] not in (4, 7))
    assert (tmp_path / "out" / "labels.tsv").read_text() == "000007.json\tabcabc\n"
    run(texts, *given, "--max_cer", 0.5, retries=1)  # nothing is left to do
    for other in ([], ["--max_cer", 1]):
        with pytest.raises(InputError, match="written in another way"):
            run(texts, *given, *other, retries=1)
    with pytest.raises(InputError, match="--max_cer is of lines that are read"):
        run(texts, *given, "--max_cer", 0.5, retries=0)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "id,text\n1,ab\n2,\n3,\"c,a\nb\"\n"),
        ("a.csv", "\ufefftext\nab\n\n\"c,a\nb\"\n"),
        ("a.CSV", "Text ;id\nab;1\n;2\n\"c,a\nb\";3\n"),
        ("a.tsv", "id\ttext\r\n1\tab\r\n2\r\n3\t\"c,a\nb\"\r\n"),
    ],
)  # fmt: skip
def test_texts_of_a_table_are_its_column_text(tmp_path, name, content):
    (tmp_path / name).write_bytes(content.encode())
    assert read_texts(tmp_path / name) == ["ab", "", "c,a\nb"]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("text\nab, ca\n", "row 2 has more cells than the first"), ('text\nab\n"ca\nbc\n', "unexpected end of data"),
        ('id,text\n1,"ab" ca\n', "expected after"),
    ],
)  # fmt: skip
def test_a_table_that_would_lose_text_is_refused(tmp_path, content, found):
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
        (tmp_path / name).write_text(content.replace(",", delimiter))
        with pytest.raises(InputError, match=rf"a\.{name[2:]}: .*{found}.*; put a cell"):
            read_texts(tmp_path / name)
    (tmp_path / "a.csv").write_text("text\nab,,\n")  # as spreadsheets write empty columns
    assert read_texts(tmp_path / "a.csv") == ["ab"]


def test_a_batch_is_no_other_where_any_flag_is_other(texts, run, tmp_path):
    given = ["--output", tmp_path / "out", "--height", 20]
    run(texts, *given)
    before = files_of(tmp_path / "out")
    for name in before:
        if name.endswith("3.png"):
            (tmp_path / "out" / name).unlink()
    for other in (["--height", 21], ["--grey"], ["--strength", 1.5], ["--colour", "red"], ["--style", "clara"]):
        with pytest.raises(InputError, match="written in another way"):
            run(texts, *given, *other)
    run(texts, *given, "--labels", "gt")
    after = files_of(tmp_path / "out")
    assert {name: after[name] for name in before} == before and len(after) > len(before)


@pytest.mark.parametrize("content", ["ab\nca\n", "id,name\n1,text\n", "text\n", "text\n\n", f'text\n"{"a" * 200_000}'])
def test_a_table_without_texts_is_refused(tmp_path, content, run):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(InputError, match=r"a\.csv: "):
        run(tmp_path / "a.csv", "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [MANIFEST, "labels.tsv", "000001.gt.txt"])
def test_the_source_is_never_an_output(tmp_path, run, name):
    (tmp_path / name).write_text("text\nab\n")
    with pytest.raises(InputError, match="could be written over"):
        run(tmp_path / name, "--output", tmp_path, "--labels", "gt")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_labels(texts, run, tmp_path):
    for labels in ("gt", "metadata", "tsv"):
        run(texts, "--output", tmp_path / labels, "--labels", labels, "--format", "svg")
    names = {f"{number:06}": LINES[number - 1] for number in NUMBERS if number != 4}
    for name, text in names.items():
        assert (tmp_path / "gt" / f"{name}.gt.txt").read_text() == f"{text}\n"
    rows = [json.loads(line) for line in (tmp_path / "metadata" / "metadata.jsonl").read_text().splitlines()]
    assert rows == [{"file_name": f"{name}.svg", "text": text} for name, text in names.items()]
    assert (tmp_path / "tsv" / "labels.tsv").read_text() == "".join(f"{name}.svg\t{t}\n" for name, t in names.items())
    (tmp_path / "gt" / "000007.gt.txt").unlink()
    run(texts, "--output", tmp_path / "gt", "--labels", "gt", "--format", "svg")
    assert (tmp_path / "gt" / "000007.gt.txt").read_text() == "abcabc\n"


@pytest.mark.parametrize("flags", [[], ["--height", 64, "--grey"], ["--dpi", 90, "--pen_width", 1]])
def test_boxes_hold_the_ink_of_characters(texts, run, tmp_path, flags):
    run(texts, "--output", tmp_path / "out", "--labels", "box", *flags)
    for number in NUMBERS:
        if number == 4:
            continue
        picture = Image.open(tmp_path / "out" / f"{number:06}.png")
        if "--grey" in flags:
            assert picture.mode == "L" and picture.height == 64
        ink = np.asarray(picture.convert("L")) < 200
        boxes = [line.split(" ") for line in (tmp_path / "out" / f"{number:06}.box").read_text().splitlines()]
        assert set("".join(box[0] for box in boxes)) <= set(LINES[number - 1])
        for _, *numbers, page in boxes:
            left, bottom, right, top = map(int, numbers)
            assert page == "0" and 0 <= left < right <= picture.width and 0 <= bottom < top <= picture.height
            part = ink[picture.height - top : picture.height - bottom, left:right]
            edges = part[:3], part[-3:], part[:, :3], part[:, -3:]
            assert all(edge.any() for edge in edges)  # it is no larger


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--height", 5], "height"), (["--height", 64, "--dpi", 90], "--height and --dpi"),
        (["--grey", "--transparent"], "--grey"), (["--grey", "--format", "svg"], "--grey is for .png"),
        (["--labels", "box", "--format", "svg"], "--labels box"), (["--labels", "x"], "--labels"),
        (["--shard", "0/3"], "shard"), (["--shard", "4/3"], "shard"), (["--shard", "x"], "shard"),
        (["--processes", 0], "processes"), (["--max_cer", 2], "max_cer"),
    ],
)  # fmt: skip
def test_flags_of_a_batch_that_do_not_fit(texts, run, tmp_path, flags, word):
    with pytest.raises(InputError, match=word):
        run(texts, "--output", tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()


def test_a_writer_can_go_to_another_process(checkpoints):
    writer = Writer(checkpoints / "hands.pt", bias=0.3, seed=4, retries=0, strength=0.5)
    assert np.array_equal(pickle.loads(pickle.dumps(writer)).write("ab").points, writer.write("ab").points)


def test_a_folder_by_way_of_one_that_is_not_there(run, texts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(texts, "--format", "json", "--output", "new/../lines")
    assert (tmp_path / "lines" / MANIFEST).is_file() and not (tmp_path / "new").exists()
    with pytest.raises(InputError, match="name another"):
        run(texts, "--output", "\udd00")  # half a character
