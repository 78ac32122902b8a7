"""Made-up handwriting for the tests, and how they run: shared by all cores, each test with one thread.

`OMP_NUM_THREADS=2 .venv/bin/python -m pytest` gives each two threads; `-n 0` runs all in one process.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before PyTorch is imported: many threads on few cores are slow

import importlib.util
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import hypothesis
import numpy as np
import pytest
import torch

from handwriting.data.dataset import Dataset, save_dataset
from handwriting.encoder import EncoderConfig, HandEncoder
from handwriting.program import run_cli
from model import Config, Model
from utils import save_checkpoint

ROOT = Path(__file__).parent.parent
# A job in a shell's background ignores Ctrl-C, and so would all programs that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
CHARSET = " 7Qabc"
USUAL_CASES = 200


def pytest_addoption(parser) -> None:
    parser.addoption(
        "--cases", type=int, help="how many cases tests/fuzz tries, new ones each time (default: 200, always the same)"
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config) -> int:
    """As many processes as there are cores for us, but at most eight: each takes half a gigabyte."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 8)


def pytest_configure(config) -> None:
    """How the cases of tests/fuzz are drawn, see there."""
    cases = config.getoption("--cases")
    hypothesis.settings.register_profile(
        "fuzz", max_examples=cases or USUAL_CASES, derandomize=cases is None, database=None, deadline=None,
        phases=set(hypothesis.Phase) - {hypothesis.Phase.explain}, print_blob=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    hypothesis.settings.load_profile("fuzz")


def make_dataset(num_lines: int = 40, seed: int = 0) -> Dataset:
    """Lines of wavy strokes, one wave a character; every fourth is for validation, and the last has no text."""
    rng = np.random.default_rng(seed)
    texts = ["".join(rng.choice(list(CHARSET[1:]), rng.integers(2, 6))) for _ in range(num_lines)]
    texts[-1] = ""
    lines, ends = [], []
    for text in texts:
        length = 6 * max(len(text), 2) + int(rng.integers(0, 4))
        wave = np.column_stack([np.full(length, 9.0), 30 * np.sin(np.arange(length))])
        lines.append(np.rint(wave + rng.normal(0, 4, wave.shape)).astype(np.int16))
        lines[-1][0] = 0
        end = rng.random(length) < 0.1
        end[-1] = True
        ends.append(end)
    splits = np.array(["validation" if i % 4 == 3 else "train" for i in range(num_lines)])
    splits[-1] = "train"
    training = np.concatenate([line for line, split in zip(lines, splits, strict=True) if split == "train"])
    counts = Counter("".join(text for text, split in zip(texts, splits, strict=True) if split == "train"))
    return Dataset(
        offsets=np.concatenate(lines),
        ends=np.concatenate(ends),
        starts=np.cumsum([0] + [len(line) for line in lines]),
        texts=np.array(texts),
        names=np.array([f"a01-{i:03}-01" for i in range(num_lines)]),
        splits=splits,
        charset=np.array(list(CHARSET)),  # the blank is in no text
        char_counts=np.array([counts[character] for character in CHARSET]),
        mean=training.mean(0),
        std=training.std(0),
        has_rests=np.array(False),
    )


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    return make_dataset()


@pytest.fixture(scope="session")
def data_file(tmp_path_factory, dataset) -> Path:
    path = tmp_path_factory.mktemp("data") / "made-up.npz"
    save_dataset(dataset, path)
    return path


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> Path:
    """A folder of small untrained networks: of both tasks, `blanks.pt`, which was shown blanks and hyphens too, and
    `hands.pt`, which reads the hands of `hand.pt`.
    """
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    encoder = HandEncoder(EncoderConfig(hand_size=4, channels=6)).eval()
    save_checkpoint(folder / "hand.pt", encoder, "", [], half=True, task="hand")
    encoder.forms = torch.nn.functional.normalize(torch.randn(6, 4), dim=1)
    for name, chars, seen, own in (
        ("synthesis", CHARSET, [0, 5, 5, 5, 5, 5], None), ("blanks", f"{CHARSET}-", [5] * 7, None),
        ("rand_write", "", [], None), ("hands", f"{CHARSET}-", [5] * 7, encoder),
    ):  # fmt: skip
        torch.manual_seed(0)
        hand_size = own.config.hand_size if own else 0
        model = Model(Config(cell_size=8, num_clusters=3, K=2, num_chars=len(chars), hand_size=hand_size))
        if own:
            model.hand_mean.copy_(torch.tensor([0.1, 0.2, -0.3, 0.4]))
        model.mean.copy_(torch.tensor([8.0, 0.0]))
        model.std.copy_(torch.tensor([40.0, 35.0]))
        task = "synthesis" if chars else "rand_write"
        save_checkpoint(folder / f"{name}.pt", model, chars, seen, half=True, encoder=own, task=task)
    return folder


@pytest.fixture(params=["1", "0"], ids=["kernels", "plain"])
def kernels_on_and_off(request, monkeypatch) -> None:
    """With the kernels and without."""
    monkeypatch.setenv("HANDWRITING_KERNELS", request.param)


def load_module(path: str) -> ModuleType:
    """A script of the project as a module of its own, by its path."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module


def environment() -> dict[str, str]:
    """For the programs that tests start."""
    return dict(os.environ)


def run_script(script: str, *arguments, cwd: Path | None = None) -> subprocess.CompletedProcess:
    """Run a script of the project as a user does."""
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=cwd, timeout=300)


@pytest.fixture
def run_here(capsys, monkeypatch) -> Callable[..., subprocess.CompletedProcess]:
    """Run the `main` of a script in this process as its program would run, which saves the seconds of its imports."""

    def run(main: Callable[[list[str]], None], *arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess:
        words = [str(argument) for argument in arguments]
        monkeypatch.chdir(cwd)
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            run_cli(lambda: main(words))
        return subprocess.CompletedProcess(words, end.value.code, *capsys.readouterr())

    return run


def assert_refused(result: subprocess.CompletedProcess, *words: str) -> None:
    """Bad input: status 2 and one line on stderr that names what is wrong."""
    assert result.returncode == 2, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    for word in words:
        assert word in lines[0], lines[0]
