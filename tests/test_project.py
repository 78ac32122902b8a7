"""The project as a whole: the shipped networks, the notebook, and the three scripts one after the other."""

from functools import partial

import nbformat
import numpy as np
import pytest
from conftest import ROOT, run_script
from corpus import write_corpus
from nbclient import NotebookClient

import generate
import train
from handwriting.alphabet import Alphabet
from handwriting.hands import list_styles, load_style
from handwriting.writer import Writer, load_network
from utils import load_checkpoint, load_encoder

TASKS = ("synthesis", "rand_write")


@pytest.mark.parametrize(
    ("name", "task", "layers"),
    [
        ("synthesis.pt", "synthesis", 3), ("rand_write.pt", "rand_write", 2),
        ("paper/synthesis.pt", "synthesis", 3), ("paper/rand_write.pt", "rand_write", 3),
        ("paper/noise.pt", "rand_write", 3), ("paper/hands.pt", "synthesis", 3),
    ],
)  # fmt: skip
def test_shipped_networks_load_and_are_small(name, task, layers):
    path = ROOT / "save" / name
    assert path.stat().st_size < 9_500_000
    model, content = load_checkpoint(path)
    assert "optimizer" not in content and content["task"] == task
    assert (model.config.num_layers, model.config.cell_size, model.config.num_clusters) == (layers, 400, 20)
    if task == "synthesis":
        learned = Alphabet(content["charset"], content["char_counts"]).learned
        assert set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,'\"!?-();:") <= set(learned)


def test_the_shipped_encoder_is_the_one_that_the_shipped_network_reads():
    path = ROOT / "save" / "hand.pt"
    assert path.stat().st_size < 1_000_000
    assert load_encoder(path).digest() == load_network(None, "synthesis").encoder.digest()


def test_shipped_network_writes_a_line_from_left_to_right():
    lines = generate.generate_conditionally("handwriting", bias=1.0, samples=4, seed=1, retries=0)
    assert sum(line.finished for line in lines) >= 3
    for line in lines:
        if line.finished:
            width, height = np.ptp(np.cumsum(line.points[:, :2], axis=0), axis=0)
            assert width > height  # whiteboard units
            assert 100 < len(line.points) < 11 * 50


def test_shipped_hands_are_of_the_shipped_network():
    """A dozen, none recorded: each names the network that wrote it. What is written in one is nearest to it."""
    hands = {name: load_style(name) for name in list_styles()}
    assert len(hands) == 12
    assert {hand.checkpoint for hand in hands.values()} == {load_network(None, "synthesis").hash}
    encode, near = load_network(None, "synthesis").encoder.encode, 0
    vectors = encode([hand.points for hand in hands.values()])
    for n, name in enumerate(hands):
        inks = Writer(style=name, retries=0).write_lines(["a line of handwriting", "another short line"], [1, 2])
        distances = np.linalg.norm(encode([ink.points for ink in inks]).mean(0) - vectors, axis=1)
        near += distances.argmin() == n
    assert near >= 9


def test_notebook_runs_on_a_fresh_clone(tmp_path):
    notebook = nbformat.read(ROOT / "Results.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}).execute()


def test_three_scripts_one_after_the_other(tmp_path, run_here):
    write_corpus(tmp_path / "data", ["ab ba", "ba ab"])
    result = run_script("data_preprocessing.py", cwd=tmp_path)
    assert result.returncode == 0 and "48 lines of 24 forms" in result.stdout, result.stderr
    for task in TASKS:
        if task == "synthesis":  # as a user does
            run_train, run_generate = partial(run_script, "train.py"), partial(run_script, "generate.py")
        else:
            run_train, run_generate = partial(run_here, train.main), partial(run_here, generate.main)
        flags = ["--task", task, "--num_epochs", 2, "--cell_size", 8, "--sample_every", 1]
        result = run_train(*flags, cwd=tmp_path)
        assert result.returncode == 0 and "epoch 2: " in result.stdout, result.stderr
        text = ["ab ba"] if task == "synthesis" else []
        checkpoint = f"save/{task}_best.pt"
        flags = ["--task", task, "--checkpoint", checkpoint, "--retries", 0]  # none can read what it writes yet
        result = run_generate(*text, *flags, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert (tmp_path / "examples" / f"{task}.png").read_bytes().startswith(b"\x89PNG")
