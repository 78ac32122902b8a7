"""Every command of the README and its side pages, as it stands there, in a fresh copy and on made-up data.

Commands run in the tests' own process; one of each program runs in a process of its own. Long texts are cut short in
the copy.
"""

import re
import shlex
import shutil
import subprocess
import sys
from textwrap import indent

import pytest
from conftest import ROOT, environment
from corpus import write_corpus
from greek import write_greek

import data_preprocessing
import generate
import train

# What is not run here, and why. Any other command is run, or fails the tests if they do not know its program.
NOT_RUN = {
    "python3 -m venv .venv": "this test runs in an environment like that already",
    ".venv/bin/pip install -r requirements.txt": "wants the network; .ci/run does it",
    ".venv/bin/pip install -r tests/requirements.txt": "wants the network; .ci/run does it",
    "pip install .": "tests/test_install.py does it",
    ".venv/bin/python -m pytest": "this is it",
    "IAM_ONDB=FOLDER .venv/bin/python -m pytest": "wants the real data",
    ".venv/bin/python -m pytest tests/fuzz --cases 10000": "takes an hour; the ordinary tests try 200 cases",
    "bash .ci/run": "makes an environment from the network, and runs this test too",
    "python -m handwriting.compose --data data/iam-ondb.npz --output data/composed.npz": "wants recorded digits; "
    "tests/test_compose.py runs it on its own",
    "torchrun --nproc_per_node 4 train.py ...": "is only the beginning of a command; tests/test_train.py runs torchrun",
    "python benchmarks/quality.py": "takes two minutes; tests/test_quality.py runs it on less",
    "python benchmarks/styles.py": "takes minutes; tests/test_styles.py tests its parts",
    "python benchmarks/styles.py --make 12 --seed 1": "would choose other hands on another machine",
    "python benchmarks/hands.py --judge save/judge/hand_best.pt": "takes minutes; tests/test_styles.py tests its parts",
    "python train.py --task hand --model_dir save/judge --seed 7 --hand_size 48 --cell_size 128 --num_epochs 16": (
        "takes minutes; tests/test_hands.py trains an encoder"
    ),
    "bash benchmarks/gpu.sh": "wants a GPU",
    "PYTHONPATH=. python tests/film.py examples/page.png": "wants a browser, and makes another picture",
    "PYTHONPATH=. python tests/film.py examples/hand.webp": "likewise",
    "python page/build.py": "would write into the page; tests/test_page_engine.py holds what it makes to what is there",
    "python benchmarks/browser.py": "takes five minutes, and a browser",
    "python benchmarks/likelihood.py save/paper/rand_write.pt save/paper/synthesis.pt --data data/rests.npz": (
        "takes minutes; tests/test_likelihood.py tests its parts"
    ),
    "python benchmarks/segmentation.py": "takes two minutes; tests/test_segmentation.py tests its parts",
    "python benchmarks/page.py": "takes two minutes; tests/test_page.py runs it on less",
    "python benchmarks/scaling.py": "takes two minutes, and measures",
    "python benchmarks/speed.py": "takes ten minutes",
    "python benchmarks/endurance.py": "takes ten minutes; tests/test_endurance.py runs it on less",
    "python train.py --task TASK --precision bf16 --num_epochs 1 --batch_size 24 --learning_rate 4E-3 --seed 0 "
    "--processes 1": "TASK stands for two tasks, and it takes an hour",
}
# A run takes seconds with these flags behind its own.
FOR_SECONDS = {"train.py": ["--num_epochs", "1", "--sample_every", "0", "--processes", "1"]}
PAGES = ("README.md", "benchmarks/README.md", "data/README.md", "examples/README.md", "tests/README.md")
MAINS = {
    "generate.py": generate.main, "train.py": train.main, "data_preprocessing.py": data_preprocessing.main,
    "handwriting": generate.main,
}  # fmt: skip


def code_of(text):
    """The commands of each code block and code span of a page, in their order, and its blocks of Python."""
    python = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^```python\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^```\w*\n(.*?)^```", lambda block: indent(block[1], " " * 4), text, flags=re.MULTILINE | re.DOTALL)
    blocks = []
    for block, span in re.findall(r"((?:^ {4}.*\n)+)|`([^`]+)`", text, flags=re.MULTILINE):
        lines = block.replace("\\\n", " ").splitlines() if block else [" ".join(span.split())]
        commands = [shlex.split(command, comments=True) for line in lines for command in line.split("&&")]
        if block or re.match(r"([A-Z_]+=\S+ )?(\S*python3?|torchrun|bash|\S*pip|handwriting) ", span):
            blocks.append([words for words in commands if words])
    return blocks, python


BLOCKS, PYTHON = code_of("\n".join((ROOT / page).read_text() for page in PAGES))
COMMANDS = [words for block in BLOCKS for words in block]
KNOWN = {tuple(shlex.split(command)) for command in NOT_RUN}


def program_of(words):
    """The program that a command runs, "" if it is none of `MAINS`, and its arguments."""
    if len(words) > 1 and words[0] in ("python", ".venv/bin/python"):
        words = words[2:] if words[1] == "-m" else words[1:]
    return (words[0], words[1:]) if words and words[0] in MAINS else ("", [])


def groups():
    """The commands to run, by blocks: a command may read what one before it in its block has written.

    All blocks that prepare data or train are one.
    """
    training, writing = [], []
    for block in BLOCKS:
        commands = [words for words in block if program_of(words)[0] and tuple(words) not in KNOWN]
        if {"train.py", "data_preprocessing.py"} & {program_of(words)[0] for words in commands}:
            training += commands
        elif commands:
            writing.append(commands)
    return [training, *writing]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A fresh copy of the repository, with made-up data where the README puts IAM-OnDB."""
    folder = tmp_path_factory.mktemp("copy")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if files.returncode:
        pytest.skip("this is no clone, and nothing tells which files belong to the project")
    for name in filter(None, files.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    letter, sentences = folder / "examples" / "letter.txt", folder / "benchmarks" / "sentences.txt"
    short = [line[:9].rstrip() for line in letter.read_text().splitlines()]
    letter.write_text("\n".join(short + ["yours"] * 4))  # no line is broken in two, and some commands ask for line 14
    sentences.write_text("\n".join(sentences.read_text().splitlines()[:3]))
    write_corpus(folder / "data", ["Some text", "text Some"])
    write_greek(folder / "data" / "greek.jsonl", lines=16)
    return folder


def run(folder, *words):
    """Run Python in the copy, where it finds no other modules of ours."""
    return subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, env=environment(), timeout=300
    )


def test_the_commands_are_found():
    found, python = code_of(
        "See `a.py` or `python a.py\n--x`:\n\n    python b.py 'c d'  # e\n    python f.py \\\n"
        "        g && python h.py\n"
        "\n```python\nimport i\n```\n\n```bash\npython j.py\n```\n\n    python k.py\n"
    )
    assert [[" ".join(words) for words in block] for block in found] == [
        ["python a.py --x"], ["python b.py c d", "python f.py g", "python h.py"], ["python j.py"], ["python k.py"]
    ]  # fmt: skip
    assert python == ["import i\n"]


@pytest.mark.parametrize("words", COMMANDS, ids=shlex.join)
def test_each_command_is_run_or_known(words):
    assert program_of(words)[0] or tuple(words) in KNOWN, "say in this file how it is run, or why not"


def test_no_reason_is_left_over():
    assert {tuple(words) for words in COMMANDS} >= KNOWN


@pytest.mark.parametrize("commands", groups(), ids=lambda commands: shlex.join(commands[0]))
def test_the_commands_run_as_they_stand_there(commands, copy, run_here):
    for words in commands:
        program, arguments = program_of(words)
        result = run_here(MAINS[program], *arguments, *FOR_SECONDS.get(program, []), cwd=copy)
        # A network trained for seconds writes nothing that can be read, and of many lines some come out wrong.
        may_be_wrong = not {"--checkpoint", "--batch", "--file"}.isdisjoint(words)
        assert result.returncode in ((0, 3) if may_be_wrong else (0,)), (words, result.stdout, result.stderr)
        written = re.findall(r"^wrote (\S+?):?(?:\s|$)", result.stdout, flags=re.MULTILINE)
        assert written or program == "train.py", (words, result.stdout)
        assert all((copy / path).stat().st_size for path in written), words


@pytest.mark.parametrize("program", ["generate.py", "train.py", "data_preprocessing.py"])
def test_each_program_explains_itself(program, copy):
    result = run(copy, program, "--help")
    assert result.returncode == 0 and result.stdout.startswith(f"usage: {program} "), result.stderr


@pytest.mark.parametrize("code", PYTHON)
def test_the_python_runs_as_it_stands_there(code, copy):
    result = run(copy, "-c", code)
    assert result.returncode == 0, result.stderr
