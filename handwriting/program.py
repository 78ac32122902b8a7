"""How a program ends, what it tells, and files that are written whole or not at all."""

from __future__ import annotations

import argparse
import io
import os
import signal
import stat
import sys
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NoReturn


class InputError(ValueError):
    """Something that the user gave cannot be used. The message names it and says what to do."""


class ResultError(Exception):
    """All is written, but not all of it is right. The message says what is wrong and what to do."""


class Parser(argparse.ArgumentParser):
    """The flags of a program. One that is wrong is an InputError, so that `run_cli` tells it in one line."""

    def error(self, message: str) -> NoReturn:
        """Raise InputError in place of printing all flags."""
        raise InputError(f"{message}; --help tells the flags")


_held_notes: list[str] | None = None  # of a program that `run_cli` runs


def note(message: str) -> None:
    """Tell on stderr what the user should know, though the work goes on.

    In a program it is told at the end, and not if that is an error: then there is one line, which is the error's.
    """
    if _held_notes is None:
        _say(f"note: {message}")
    else:
        _held_notes.append(message)


def printable(text: str, most: int = 10_000) -> str:
    """Text of unknown origin as one line of at most so many characters, with control characters and such escaped."""
    text = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)[:most]


def _say(message: str) -> None:
    print(printable(message), file=sys.stderr)


def run_cli(main: Callable[[], None]) -> None:
    """Run `main` as a program, and end it.

    On bad input the status is 2, with one line on stderr; on `ResultError` 3; on Ctrl-C 130. Warnings of libraries are
    not shown, unless Python's -W asks for them.
    """
    global _held_notes
    for name in ("stdout", "stderr"):  # closed by whoever started the program, as with >&-
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for as long as the process lives
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # the imports are over
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files can hold what no encoding has
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    _held_notes, error, status = [], "", 0
    try:
        main()
        sys.stdout.flush()
    except InputError as problem:
        error, status = str(problem), 2
    except ResultError as problem:
        error, status = str(problem), 3
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:  # whoever reads our output has gone, as with `| head`
        status = 1
    except OSError as problem:  # a folder that cannot be written, a full disk
        error, status = f"{problem.filename or 'input or output'}: {problem.strerror or problem}", 2
    for message in _held_notes if status in (0, 3) else ():
        _say(f"note: {message}")
    if error:
        _say(f"error: {error}")
    try:
        sys.stdout.flush()
    except OSError:  # else Python tries again at its end, and complains
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def output_file(path: Path) -> Path:
    """Where an output goes: `path`, or what it links to. Raises InputError if that cannot be a regular file."""
    try:
        target = path.resolve()
        if target.is_dir():
            raise InputError(f"{path}: is a folder; name a file")
        if target.exists() and not target.is_file():
            raise InputError(f"{path}: is no regular file but a device or the like, which is never replaced")
        folder = next(parent for parent in target.parents if parent.exists())
        for name in target.relative_to(folder).parts:  # of files and folders that will be made: can they be named so?
            with suppress(FileNotFoundError):
                (folder / name).lstat()
    except (OSError, RuntimeError) as error:  # a name that is too long, links in a circle
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}; name another file") from None
    return target


def check_writable(path: Path) -> None:
    """Raise InputError if `atomic_write` could not write to `path`. For a program's start; it makes nothing."""
    folder = output_file(path).parent
    while not folder.exists():  # will be made
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {folder}: {error.strerror}") from None


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """A buffer that becomes the file at `path` if all went well: whole or not at all.

    It is written to a temporary file beside `path` that is then renamed. A link stays and what it links to is written;
    an existing file's mode is kept. Raises InputError if `path` cannot be a regular file, and OSError that names it if
    it cannot be written, as on a full disk. A program that is killed just then leaves a hidden file that ends in
    `.part`: nothing reads it, and it may be deleted.
    """
    target = output_file(path)
    yield (buffer := io.BytesIO())
    temporary = target.with_name(f".{uuid.uuid4().hex}.part")  # short, and no other program's
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            if target.exists():
                os.fchmod(file.fileno(), stat.S_IMODE(target.stat().st_mode))
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink()
