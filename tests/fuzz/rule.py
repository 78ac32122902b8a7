"""The rule for every case: a program ends with whole outputs, or with one line on stderr and nothing touched."""

import contextlib
import io
import json
import os
import resource
import signal
import stat
import sys
import tempfile
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from hypothesis import settings
from lxml import etree
from PIL import Image

from handwriting import program

MEMORY = 1 << 30  # bytes that a case may add
LIMITS = ((signal.ITIMER_PROF, signal.SIGPROF, 10), (signal.ITIMER_REAL, signal.SIGALRM, 60))  # s: computing, in all
READERS = {  # by the ending: what fails for half a file
    **dict.fromkeys(("svg", "xml", "inkml"), etree.fromstring),
    **dict.fromkeys(("png", "gif", "webp"), lambda data: Image.open(io.BytesIO(data)).load()),
    "json": json.loads, "jsonl": lambda data: [json.loads(line) for line in data.decode().split("\n")[:-1]],
    "npz": lambda data: [*np.load(io.BytesIO(data)).values()], "pt": lambda data: zipfile.ZipFile(io.BytesIO(data)),
    "pdf": lambda data: data.rstrip().rindex(b"%%EOF", -5), "gcode": lambda data: data.index(b"\nG0 X0 Y0", -20),
    "txt": bytes.decode, "csv": bytes.decode,
}  # fmt: skip


def cases(share: float) -> settings:
    """The settings of a test that has this share of all cases."""
    return settings(max_examples=max(1, round(share * settings.default.max_examples)))


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A folder to run a program in. The four folders around it belong to the case, too."""
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base).resolve() / "1" / "2" / "3" / "here"
        folder.mkdir(parents=True)
        yield folder


def snapshot(folder: Path) -> dict[Path, tuple]:
    """All that is in a folder: by path its kind, mode and content."""
    found = {}
    for path in folder.rglob("*"):
        mode = path.lstat().st_mode
        content = os.readlink(path) if stat.S_ISLNK(mode) else path.read_bytes() if stat.S_ISREG(mode) else None
        found[path] = mode, content
    return found


class TooLong(BaseException):
    """What no program catches."""


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Raise TooLong after `LIMITS`, and have the system refuse more than `MEMORY`."""

    def stop(*_: object) -> None:
        raise TooLong

    for timer, number, seconds in LIMITS:
        signal.signal(number, stop)
        signal.setitimer(timer, seconds)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    bounds = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, bounds[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, bounds)
        for timer, *_ in LIMITS:
            signal.setitimer(timer, 0)


def run(main: Callable[[list[str]], None], arguments: list[str], folder: Path) -> tuple[object, str, str]:
    """Run a program within this process: its status, or the traceback that it ends with, its stdout and its stderr."""
    before = sys.stdout, sys.stderr, os.getcwd()
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace", write_through=True) for _ in range(2))
    sys.stdout, sys.stderr = out, err
    os.chdir(folder)
    try:
        with warnings.catch_warnings(), limited():
            program.run_cli(lambda: main(arguments))
    except SystemExit as end:
        status: object = end.code
        if status == 130:  # Ctrl-C is for the whole campaign
            raise KeyboardInterrupt from None
    except BaseException as error:
        status = "".join(traceback.format_exception(error)[-6:])
    finally:
        sys.stdout, sys.stderr = before[:2]
        os.chdir(before[2])
    return status, out.buffer.getvalue().decode(), err.buffer.getvalue().decode()


def rule(
    main: Callable[[list[str]], None], arguments: list, folder: Path, output: Path | str = "", statuses: tuple = (0, 2)
) -> tuple[int, str]:
    """Run a program in `folder`, and fail unless it keeps to the rule. Returns its status and what it printed.

    `output` is what it may write: a file, with those beside it whose names begin alike, or a folder.
    """
    before = snapshot(folder.parents[3])
    status, out, err = run(main, [*map(str, arguments)], folder)
    assert status in statuses, f"{status}\n{err}"
    after = snapshot(folder.parents[3])
    lines = err.splitlines()
    errors = [line for line in lines if not line.startswith("note: ")]
    assert len(errors) == (status != 0) and all(line.startswith("error: ") for line in errors), err
    touched = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    touched = {path for path in touched if path.suffix != ".lock"}
    if status == 2:
        assert len(lines) == 1 and not touched, f"{touched}\n{err}"
        return status, out
    target = (folder / output).resolve()
    assert touched or target.exists(), "no output"
    for path in touched:
        is_of_output = any(  # a link's name, or that of what it leads to
            path.parent == place.parent and path.name.startswith(place.stem) for place in (target, folder / output)
        )
        assert path in after and (is_of_output or target in path.parents or path in target.parents), path
        if path.is_file():
            READERS[path.name.rpartition(".")[2].lower()](path.read_bytes())
    return status, out
