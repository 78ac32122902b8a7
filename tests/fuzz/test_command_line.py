"""What users type: texts, letters, batches, numbers, and where outputs go."""

import json
import os
import subprocess
import sys

from conftest import ROOT, environment
from corpus import write_corpus
from hypothesis import assume, given
from hypothesis import strategies as st
from rule import cases, rule, workplace
from strategies import ARGUMENTS, KNOWN, NUMBERS, TEXTS, changed, damaged

import data_preprocessing
import generate
import train
from handwriting.ink.formats import FORMATS

FILES = st.one_of(
    st.lists(KNOWN | TEXTS, max_size=5).map(lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass")),
    KNOWN.flatmap(lambda text: damaged(text.encode())), st.binary(max_size=40),
)  # fmt: skip
OF_LINES = (
    "samples", "steps", "bias", "seed", "retries", "pen_width", "dpi", "speed", "pen_up", "pen_down", "feed", "travel",
    "feed_z", "bed", "simplify", "height",
)  # fmt: skip
OF_PAGES = ("x_height", "line_spacing", "jitter", "margins", "page", "redo", "from_line", "bias", "seed")
OF_TRAINING = (
    "num_layers", "cell_size", "num_clusters", "K", "batch_size", "timesteps", "num_epochs", "learning_rate", "warmup",
    "decay_rate", "grad_clip", "ema", "weight_noise", "rare_share", "augment", "seed", "max_steps", "max_minutes",
    "sample_every",
)  # fmt: skip
LENGTHY = {"samples", "steps", "retries", "num_layers", "cell_size", "num_clusters", "K", "redo"}
TINY = ["--processes=1", "--max_steps=2", "--cell_size=4", "--num_layers=1", "--sample_every=0"]


@st.composite
def flags(draw, *names: str) -> list[str]:
    """Some flags with numbers, but none that asks for much work."""
    given = []
    for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=3)):
        parts = draw(st.lists(NUMBERS, min_size=1, max_size=4 if name in ("page", "bed", "margins", "redo") else 1))
        assume(not (name in LENGTHY and any(len(part) < 7 and part.isdecimal() and int(part) > 30 for part in parts)))
        given.append(f"--{name}={ {'page': 'x', 'bed': 'x', 'redo': ':'}.get(name, ',').join(parts) }")
    return given


@cases(0.14)
@given(st.lists(KNOWN | ARGUMENTS, max_size=3), st.sampled_from(FORMATS), st.booleans())
def test_texts(checkpoints, texts, ending, with_figures):
    figures = ["--attention", "--density"] if with_figures and ending == "svg" else []
    own = ["--checkpoint", checkpoints / "blanks.pt", "--retries=0", "--steps=30", f"--output=o.{ending}"]
    with workplace() as folder:
        rule(generate.main, [*own, *figures, *texts], folder, f"o.{ending}")


@cases(0.05)
@given(
    FILES, st.sampled_from(FORMATS),
    st.lists(st.sampled_from(["--ruled", "--landscape", "--smooth", "--jitter=2", "--align=right", "--page=30x20",
             "--page=A5", "--margins=9", "--redo=1", "--x_height=9"]), max_size=3),
)  # fmt: skip
def test_letters(checkpoints, data, ending, more):
    own = ["--file=letter.txt", "--checkpoint", checkpoints / "blanks.pt", "--retries=0", f"--output=o.{ending}"]
    with workplace() as folder:
        (folder / "letter.txt").write_bytes(data)
        rule(generate.main, [*own, *more], folder, f"o.{ending}")


@cases(0.05)
@given(FILES, FILES, st.sampled_from(FORMATS), st.data())
def test_batches(checkpoints, data, other, ending, more):
    """A batch is written, its manifest may come to harm, and it is gone on with, by other texts perhaps."""
    own = ["--batch=texts", "--checkpoint", checkpoints / "blanks.pt", "--retries=0", "--format", ending, "--output=o"]
    with workplace() as folder:
        (folder / "texts").write_bytes(data)
        rule(generate.main, own, folder, "o", (0, 2, 3))
        manifest = folder / "o" / "manifest.jsonl"
        if not manifest.exists():
            return
        rows = [json.loads(line) for line in manifest.read_text().splitlines()] or [{}]
        other_rows = changed(rows).map(lambda rows: "".join(f"{json.dumps(row)}\n" for row in rows).encode())
        manifest.write_bytes(more.draw(st.just(manifest.read_bytes()) | damaged(manifest.read_bytes()) | other_rows))
        (folder / "texts").write_bytes(more.draw(st.sampled_from([data, data, other])))
        rule(generate.main, own, folder, "o", (0, 2, 3))


@cases(0.11)
@given(flags(*OF_LINES), st.sampled_from(["svg", "png", "gcode", "gif"]), st.sampled_from(["rand_write", "blanks"]))
def test_numbers_of_lines(checkpoints, flags, ending, name):
    task = ["--task=rand_write"] if name == "rand_write" else ["ab"]
    own = ["--checkpoint", checkpoints / f"{name}.pt", "--retries=0", "--steps=20", f"--output=o.{ending}"]
    with workplace() as folder:
        rule(generate.main, [*task, *own, *flags], folder, f"o.{ending}", (0, 2, 3))


@cases(0.05)
@given(flags(*OF_PAGES), st.sampled_from(["svg", "png", "gcode"]))
def test_numbers_of_pages(checkpoints, flags, ending):
    own = ["ab 7", "--page=60x30", "--margins=3", "--checkpoint", checkpoints / "blanks.pt", "--retries=0"]
    with workplace() as folder:
        rule(generate.main, [*own, f"--output=o.{ending}", *flags], folder, f"o.{ending}")


@cases(0.02)
@given(flags(*OF_TRAINING), st.sampled_from(["rand_write", "synthesis", "read"]))
def test_numbers_of_training(data_file, flags, task):
    with workplace() as folder:
        rule(train.main, [f"--task={task}", "--data", data_file, "--model_dir=o", *TINY, *flags], folder, "o")


PARTS = st.sampled_from(
    [".", "..", "", "new", "file", "folder", "link", "to", "gone", "away", "loop", "pipe", "o", " ", "\n", "~", "$HOME",
     "-o", "*", "\udcff", "\x1b[31m", "x" * 200, "x" * 255, "x" * 300]
)  # fmt: skip


@cases(0.1)
@given(
    st.lists(PARTS | ARGUMENTS, min_size=1, max_size=3).map(lambda parts: "/".join(parts).lstrip("/")),
    st.sampled_from(["lines", "lines", "page", "batch", "export", "prepare", "train"]),
    st.sampled_from(["", *(f".{ending}" for ending in FORMATS)]),
)  # fmt: skip
def test_outputs(checkpoints, data_file, place, kind, ending):
    ending = {"export": ".pt", "prepare": ".npz", "batch": "", "train": ""}.get(kind, ending)
    writing = ["--checkpoint", checkpoints / "synthesis.pt", "--retries=0", f"--output={place}{ending}"]
    main, own = {
        "lines": (generate.main, ["ab", "--steps=9", *writing]),
        "page": (generate.main, ["ab", "--page=60x20", "--margins=2", *writing]),
        "batch": (generate.main, ["--batch=file", "--format=svg", *writing]),
        "export": (train.main, ["--init", checkpoints / "rand_write.pt", f"--export={place}{ending}"]),
        "prepare": (data_preprocessing.main, [f"--output={place}{ending}"]),
        "train": (train.main, ["--data", data_file, *TINY, f"--model_dir={place}"]),
    }[kind]
    with workplace() as folder:
        write_corpus(folder / "data", ["ab"], forms=2)
        for name in {"folder", f"folder{ending}"}:
            (folder / name).mkdir()
        for name in ("file", f"file{ending}"):
            (folder / name).write_text("ab\n7\n")
            (folder / name).chmod(0o600)
        os.mkfifo(folder / f"pipe{ending}")
        for name, target in (
            ("link", "file"),
            ("to", "folder"),
            ("gone", "new"),
            ("away", "../away"),
            ("loop", "loop"),
        ):
            (folder / f"{name}{ending}").symlink_to(f"{target}{ending}")
        rule(main, own, folder, f"{place}{ending}")


@cases(0.006)
@given(KNOWN | ARGUMENTS, flags(*OF_LINES))
def test_program(checkpoints, text, flags):
    """generate.py in a process of its own, as users start it."""

    def start(arguments: list[str]) -> None:
        command = [sys.executable, ROOT / "generate.py", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60)
        sys.stdout.write(result.stdout)
        sys.stderr.write(result.stderr)
        sys.exit(result.returncode)

    own = [f"--checkpoint={checkpoints / 'blanks.pt'}", "--retries=0", "--steps=9", "--output=o.svg"]
    with workplace() as folder:
        rule(start, [*own, *flags, "--", text], folder, "o.svg", (0, 2, 3))
