"""Files that are read: checkpoints, prepared data, what it is made of, and the ink of a hand."""

import io
import json
import tarfile
from functools import cache
from pathlib import Path

import torch
from corpus import write_corpus
from hypothesis import given
from hypothesis import strategies as st
from made_up_ink import write_line
from rule import cases, rule, run, workplace
from strategies import ARGUMENTS, KNOWN, TEXTS, changed, changed_npz, damaged, xml

import data_preprocessing
import generate
import train
from handwriting.data.dataset import load_dataset

TASKS = st.sampled_from(["rand_write", "synthesis"])
TINY = ["--processes=1", "--max_steps=2", "--cell_size=4", "--num_clusters=2", "--K=2", "--sample_every=0"]


def written(checkpoint: bytes, task: str) -> bytes | None:
    """What is written with a checkpoint, by the rule; None if it is refused."""
    what = ["--task=rand_write"] if task == "rand_write" else ["ab7"]
    with workplace() as folder:
        (folder / "bad.pt").write_bytes(checkpoint)
        own = ["--steps=9", "--retries=0", "--checkpoint=bad.pt", "--output=o.svg"]
        status, _ = rule(generate.main, [*what, *own], folder, "o.svg")
        return None if status else (folder / "o.svg").read_bytes()


@st.composite
def changed_checkpoints(draw, data: bytes) -> bytes:
    """A whole checkpoint with something else in it."""
    file = io.BytesIO()
    torch.save(draw(changed(torch.load(io.BytesIO(data), weights_only=True))), file)
    return file.getvalue()


@cases(0.1)
@given(TASKS, st.data())
def test_damaged_checkpoints(checkpoints, task, more):
    """No other ink comes of a file that is not the one that was written."""
    whole = (checkpoints / f"{task}.pt").read_bytes()
    assert written(more.draw(damaged(whole)), task) in (None, written(whole, task))


@cases(0.1)
@given(TASKS, st.data())
def test_changed_checkpoints(checkpoints, data_file, task, more):
    checkpoint = more.draw(changed_checkpoints((checkpoints / f"{task}.pt").read_bytes()))
    written(checkpoint, task)
    with workplace() as folder:
        (folder / "bad.pt").write_bytes(checkpoint)
        rule(train.main, ["--evaluate=bad.pt", "--data", data_file], folder)


@cache
def interrupted_run(data_file: Path, task: str) -> bytes:
    """The checkpoint of a run that has come to its second step."""
    own = [f"--task={task}", "--data", data_file, "--model_dir", data_file.parent, *TINY, "--batch_size=20"]
    status, _, error = run(train.main, [*map(str, own), "--ema=0.9", "--weight_noise=0.1"], data_file.parent)
    assert status == 0, error
    return (data_file.parent / f"{task}_interrupted.pt").read_bytes()


@cases(0.02)
@given(TASKS, st.data())
def test_runs_that_are_resumed(data_file, task, more):
    whole = interrupted_run(data_file, task)
    own = [f"--task={task}", "--data", data_file, "--model_dir=o", "--resume", "--max_steps=3", "--processes=1"]
    with workplace() as folder:
        (folder / "o").mkdir()
        checkpoint = more.draw(st.one_of(damaged(whole), *[changed_checkpoints(whole)] * 3))
        (folder / "o" / f"{task}_interrupted.pt").write_bytes(checkpoint)
        rule(train.main, own, folder, "o")


@cases(0.06)
@given(st.data(), st.integers(0, 9))
def test_prepared_data(checkpoints, data_file, more, number):
    with workplace() as folder:
        (folder / "bad.npz").write_bytes(more.draw(changed_npz(data_file.read_bytes())))
        rule(train.main, ["--data=bad.npz", "--evaluate", checkpoints / "synthesis.pt"], folder)
        if number == 0:  # seldom, as it takes longer
            rule(train.main, ["--data=bad.npz", "--model_dir=o", *TINY], folder, "o")


def prepare(folder: Path) -> None:
    """Prepare what is in the folder `data`. What comes out can be loaded, and nothing raw is printed."""
    status, said = rule(data_preprocessing.main, ["--output=o.npz"], folder, "o.npz")
    assert all(c.isprintable() or c == "\n" for c in said), said
    if status == 0:
        load_dataset(folder / "o.npz")


LINES = xml("WhiteboardCaptureSession")
TRANSCRIPTIONS = st.lists(KNOWN | TEXTS, max_size=4).map(
    lambda lines: "\n".join(["CSR:", *lines]).encode("latin-1", "replace")
)
FORMS = st.lists(st.sampled_from(["a01-000", "a01-030"]) | TEXTS).map("\n".join)
NAMES = st.sampled_from(["a01-030-01", "a01-030-02", "a01-030", "../up", "/tmp/up", "a" * 200, "-", ""]) | st.text(
    st.characters(codec="utf-8") | st.sampled_from("\udc80\udcff"),
    max_size=20,  # bytes that are not UTF-8
)


@cases(0.06)
@given(LINES, TRANSCRIPTIONS | st.binary(max_size=50), st.none() | FORMS)
def test_folders(line, text, forms):
    with workplace() as folder:
        write_corpus(folder / "data", ["ab"], forms=3)
        (folder / "data" / "lineStrokes" / "a01-030-01.xml").write_bytes(line)
        (folder / "data" / "ascii" / "a01-030.txt").write_bytes(text)
        for name in data_preprocessing.FORM_LISTS if forms is not None else ():
            (folder / "data" / name).write_bytes(forms.encode("utf-8", "replace") if "train" in name else b"")
        prepare(folder)


@st.composite
def archives(draw, ending: str, contents: st.SearchStrategy[bytes]) -> bytes:
    """A .tar.gz of odd members, damaged perhaps."""
    file, form = io.BytesIO(), draw(st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
    with tarfile.open(fileobj=file, mode="w:gz", format=form) as tar:
        for name in draw(st.lists(NAMES, max_size=5)):
            entry, content = tarfile.TarInfo(name.replace("\0", "") + ending), draw(contents)
            entry.type = draw(st.sampled_from([tarfile.REGTYPE] * 6 + [bytes([kind]) for kind in b"1234567xgSLK"]))
            entry.linkname = draw(st.sampled_from(["/etc/passwd", "../up", entry.name]))
            entry.size = len(content) if entry.isreg() else 0
            tar.addfile(entry, io.BytesIO(content))
    return draw(damaged(file.getvalue())) if draw(st.integers(0, 2)) == 0 else file.getvalue()


@cases(0.04)
@given(archives(".xml", LINES), archives(".txt", TRANSCRIPTIONS))
def test_archives(strokes, texts):
    with workplace() as folder:
        (folder / "data").mkdir()
        (folder / "data" / "lineStrokes-all.tar.gz").write_bytes(strokes)
        (folder / "data" / "ascii-all.tar.gz").write_bytes(texts)
        prepare(folder)


@cases(0.1)
@given(st.sampled_from(["json", "npz", "svg", "inkml", "xml"]), st.none() | KNOWN | ARGUMENTS, st.data())
def test_hands(checkpoints, ending, text, more):
    own = ["ab", "--checkpoint", checkpoints / "blanks.pt", "--retries=0", "--steps=9", "--output=o.svg"]
    given = [] if text is None else [f"--prime_text={text}"]
    with workplace() as folder:
        path = folder / f"ink.{ending}"
        write_line("abc ab 7").save(path)
        whole = path.read_bytes()
        odd = {
            "json": changed(json.loads(whole)).map(json.dumps).map(str.encode) if ending == "json" else None,
            "npz": changed_npz(whole), "svg": xml("svg"), "inkml": xml("ink"), "xml": LINES,
        }[ending]  # fmt: skip
        path.write_bytes(more.draw(damaged(whole) | odd))
        rule(generate.main, [*own, "--prime", path.name, *given], folder, "o.svg")
