"""The package as `pip install` makes it, outside the repository and beside other programs' modules."""

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, environment

import generate

SOURCES = ("handwriting", "save", "generate.py", "model.py", "utils.py")
PROJECT = ("pyproject.toml", "setup.py", "requirements.txt", "README.md", "LICENSE")
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


def run(command: list, folder: Path, **more: str) -> str:
    result = subprocess.run(
        [*map(str, command)], cwd=folder, env=environment() | more, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of the source distribution of a copy of this repository."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in (*SOURCES, *PROJECT):  # building leaves files beside its sources
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / "copy" / name, ignore=shutil.ignore_patterns("__pycache__", "paper"))
        else:
            shutil.copy(ROOT / name, folder / "copy" / name)
    run([sys.executable, "-c", "from setuptools import build_meta; build_meta.build_sdist('..')"], folder / "copy")
    (source,) = folder.glob("*.tar.gz")
    run([*PIP, "wheel", "--no-deps", "--no-build-isolation", source], folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel) -> Path:
    """A folder with the installed package, to be on Python's path."""
    folder = wheel.parent / "installed"
    run([*PIP, "install", "--no-deps", "--target", folder, wheel], wheel.parent)
    return folder


@pytest.fixture
def elsewhere(tmp_path) -> Path:
    """A folder of somebody's, with modules named like ours."""
    for name in ("utils", "model", "generate"):
        (tmp_path / f"{name}.py").write_text("ours = True\n")
    return tmp_path


def test_the_wheel_has_one_package_with_all_that_it_needs(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        files = (ROOT / "handwriting").rglob("*")
        package = {path.relative_to(ROOT) for path in files if path.suffix in (".py", ".c", ".h")}
        expected = {path.as_posix() for path in package}
        expected |= {f"handwriting/{name}.py" for name in ("model", "utils", "generate")}
        networks = [*(ROOT / "save").glob("*.pt"), *(ROOT / "save" / "styles").glob("*.json")]
        shipped = {f"handwriting/{path.relative_to(ROOT).as_posix()}": path for path in networks}
        assert names == expected | set(shipped) and len(shipped) >= 15
        for name, path in shipped.items():
            assert archive.read(name) == path.read_bytes()
        for name in filter(lambda name: name.endswith(".py"), names):
            imported = {
                node.module if isinstance(node, ast.ImportFrom) else alias.name
                for node in ast.walk(ast.parse(archive.read(name)))
                if isinstance(node, ast.Import | ast.ImportFrom)
                for alias in node.names
            }
            assert imported.isdisjoint({"model", "utils", "generate"}), name


def test_the_command_writes_as_generate_does(installed, elsewhere, monkeypatch):
    arguments = ["a line", "--seed=3", "--steps=90", "--retries=0", "--output=line.json"]
    said = run([sys.executable, installed / "bin" / "handwriting", *arguments], elsewhere, PYTHONPATH=str(installed))
    assert said == "wrote line.json\n"
    there = (elsewhere / "line.json").read_bytes()
    monkeypatch.chdir(elsewhere)
    generate.main(arguments)
    assert (elsewhere / "line.json").read_bytes() == there


def test_the_package_is_used_beside_modules_named_like_ours(installed, elsewhere):
    code = """
        import sys
        import handwriting
        assert "torch" not in sys.modules
        from handwriting import *
        import generate, model, utils
        assert generate.ours and model.ours and utils.ours
        assert handwriting.__file__.startswith(sys.argv[1])
        ink = Writer(seed=3, retries=0).write("a line")
        assert isinstance(ink, Ink) and ink.text == "a line"
        assert all(callable(getattr(handwriting, name)) for name in handwriting.__all__)
        line, = generate_conditionally("a line", steps=20, retries=0)
        print(len(line.points))
    """
    code = "\n".join(line.strip() for line in code.splitlines())
    assert run([sys.executable, "-c", code, installed], elsewhere, PYTHONPATH=str(installed)) == "21\n"


def test_vpype_has_a_generator_of_handwriting(installed, elsewhere, monkeypatch):
    vpype = pytest.importorskip("vpype", reason="vpype is not installed: pip install -r tests/requirements.txt")
    code = "from vpype_cli import cli; cli()"  # as its command does
    arguments = ["handwriting", "--seed=3", "a line", "write", "line.svg"]
    run([sys.executable, "-c", code, *arguments], elsewhere, PYTHONPATH=str(installed))
    monkeypatch.chdir(elsewhere)
    generate.main(["a line", "--seed=3", "--output=ours.svg"])
    found, expected = (vpype.read_svg(name, 0.01)[0] for name in ("line.svg", "ours.svg"))
    strokes = len(re.findall(r"<(?:poly)?line\b", Path("line.svg").read_text()))  # vpype may read one of them as two
    assert strokes == len(expected) > 3 and found.length() == pytest.approx(expected.length(), rel=1e-3)


def test_the_module_runs_as_the_command_does(installed, elsewhere):
    said = run([sys.executable, "-m", "handwriting", "--help"], elsewhere, PYTHONPATH=str(installed))
    assert said.startswith("usage: handwriting ")
