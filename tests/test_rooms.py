"""Where what lives: which module may import which, how long files may be, and what lies on the top level."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT, environment

SCRIPTS = {
    "data_preprocessing",
    "train",
    "generate",
    "handwriting.__main__",
    "handwriting.compose",
    "handwriting.vpype_plugin",
    "page.build",
}
# From the ground up. A module may import those of lower floors and, without going in a circle, of its own; a name
# stands for all in its folder.
FLOORS = (
    ("handwriting.program", "handwriting.seeds", "handwriting.strokes", "handwriting.limits"),
    ("handwriting.kernels",),
    ("model",),
    ("handwriting.data", "handwriting.ink", "handwriting.recogniser"),
    ("handwriting.encoder",),
    ("utils",),
    ("handwriting.sampling", "handwriting.alphabet", "handwriting.checks", "handwriting.figures", "handwriting.pages"),
    ("handwriting.hands", "handwriting.writer", "handwriting.bulk", "handwriting.training"),
    ("handwriting.requests",),
    ("handwriting.cutting",),
    ("data_preprocessing", "train", "generate", "handwriting.compose", "handwriting.vpype_plugin", "page.build"),
    ("handwriting.__main__", "handwriting", "setup"),  # doors: the command, what the package hands on, its installation
)
TOP_LEVEL = {
    "README.md", "LICENSE", "requirements.txt", "pyproject.toml", "setup.py", "data_preprocessing.py", "model.py",
    "train.py", "generate.py", "utils.py", "Results.ipynb", "handwriting", "save", "examples", "data", "tests",
    "benchmarks", "page",
}  # fmt: skip


@cache
def project_files() -> list[Path]:
    """All files of the project, relative to its folder."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if files.returncode:
        pytest.skip("this is no clone, and nothing tells which files belong to the project")
    return [Path(name) for name in files.stdout.split("\0") if name and (ROOT / name).is_file()]


def modules() -> dict[str, Path]:
    """The modules of the project by name, without those of tests and benchmarks."""
    paths = [path for path in project_files() if path.suffix == ".py" and path.parts[0] not in ("tests", "benchmarks")]
    return {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


@cache
def imports() -> dict[str, set[str]]:
    """Which modules of the project each one imports, at its top or within a function."""
    known, found = modules(), {}
    for name, path in known.items():
        targets = set()
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{path}: a relative import"
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                targets |= inner & known.keys() or {node.module}
        found[name] = targets & known.keys()
    return found


def room(name: str) -> str:
    """The name in `FLOORS` that a module belongs to."""
    rooms = [room for rooms in FLOORS for room in rooms if name == room or name.startswith(f"{room}.")]
    found = max(rooms, key=len, default="")
    assert found and (found != "handwriting" or name == found), f"{name}: say in FLOORS where it lives"
    return found


def floor(name: str) -> int:
    """The floor on which a module lives."""
    return next(number for number, rooms in enumerate(FLOORS) if room(name) in rooms)


def test_no_arrow_goes_up():
    up = [f"{name} -> {other}" for name, others in imports().items() for other in others if floor(other) > floor(name)]
    assert up == []


def test_nothing_goes_in_a_circle():
    TopologicalSorter({name: others - {name} for name, others in imports().items()}).prepare()  # raises CycleError
    between: dict[str, set[str]] = {}
    for name, others in imports().items():
        between.setdefault(room(name), set()).update({room(other) for other in others} - {room(name)})
    TopologicalSorter(between).prepare()


def test_nobody_imports_a_script():
    found = {f"{name} -> {other}" for name, others in imports().items() for other in others & SCRIPTS}
    assert found == {"handwriting.__main__ -> generate"}  # it runs it


def test_every_floor_and_room_is_there():
    known = {room for rooms in FLOORS for room in rooms}
    assert known <= modules().keys()
    assert {room(name) for name in modules()} == known


def test_flags_and_what_reads_and_prepares_data_do_without_pytorch():
    code = "import sys, data_preprocessing, generate; generate.read_request(['--task', 'rand_write']); " \
        "import handwriting.program, handwriting.seeds, handwriting.strokes; " \
        "print('torch' in sys.modules, 'data_preprocessing' in sys.modules)"  # fmt: skip
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert result.stdout == "False True\n", result.stderr


def test_files_are_short():
    lengths = {str(path): len((ROOT / path).read_text().splitlines()) for path in modules().values()}
    assert {name: length for name, length in lengths.items() if length > 420} == {}
    assert lengths["model.py"] <= 355 and lengths["setup.py"] < 50


def test_all_files_together_are_short():
    assert sum(len((ROOT / path).read_text().splitlines()) for path in modules().values()) <= 10000
    own = [
        path for path in project_files() if path.parts[0] == "page" and path.name not in ("network.js", "products.js")
    ]
    assert sum(len((ROOT / path).read_text().splitlines()) for path in own) <= 2570


def test_the_top_level_has_the_cards_names_alone():
    names = {path.parts[0] for path in project_files()}
    assert {name for name in names if not name.startswith(".")} == TOP_LEVEL
