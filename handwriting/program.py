"""How a program ends, what it tells the user, and files that are written whole or not at all."""

import argparse
import atexit
import gc
import io
import logging
import os
import signal
import stat
import sys
import tempfile
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from tqdm import tqdm

LINE_EVERY = 60  # s, between lines that tell of progress where there is no terminal

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]


class InputError(ValueError):
    """Something that the user gave cannot be used. The message names it and says what to do."""


class ResultError(Exception):
    """All files are written, but some of the results are wrong. The message says which, and what to do."""


def check_range(name: str, value: float | None, least: float, most: float, unit: str = "") -> None:
    """Raise InputError for a number out of its range; None stands for a default."""
    if value is not None and not least <= value <= most:  # true for NaN
        raise InputError(f"{name} must be from {least} to {most}{unit}, not {value}")


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises InputError for wrong flags."""

    def error(self, message: str) -> NoReturn:
        """Raise InputError instead of printing all flags."""
        raise InputError(f"{message}; --help lists the flags")


_notes: list[str] | None = None  # those of the program that `run_cli` runs


def note(message: str) -> None:
    """Tell the user something on stderr. A program that `run_cli` runs does so at its end, unless it fails."""
    if _notes is None:
        print(f"note: {printable(message)}", file=sys.stderr)
    else:
        _notes.append(message)


def printable(text: str, most: int = 10_000) -> str:
    """Any text as one line of at most `most` characters, with control characters escaped."""
    return escaped(" ".join(text.split()))[:most]


def escaped(text: object) -> str:
    """Any text, such as the name of a file, with what a terminal would act on escaped, such as control characters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


class ProgressLines:
    """What tqdm writes, as lines on stderr."""

    def write(self, text: str) -> None:
        """Print a bar, which comes with blanks and a carriage return, as a line."""
        if line := text.strip():
            print(line, file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Nothing is kept back."""


def progress_bar(items: Any = None, **settings: Any) -> "tqdm":
    """A bar of tqdm on stderr; where that is no terminal, a line a minute in its place."""
    from tqdm import tqdm

    tqdm.set_lock(threading.RLock())  # its own is for processes, and one that is killed leaves a semaphore behind
    if not sys.stderr.isatty():
        settings |= {"file": ProgressLines(), "mininterval": LINE_EVERY, "miniters": 1, "delay": LINE_EVERY}
    return tqdm(items, **settings)


class Unfailing(io.FileIO):
    """A file whose writes never fail: what a full disk cannot hold is lost."""

    def write(self, data: Any) -> int:
        """Write what can be written."""
        with suppress(OSError):
            return super().write(data)
        return len(data)


def run_cli(main: Callable[[], None]) -> None:
    """Run `main` as a program, and exit: with 2 for bad input or files, 3 for `ResultError`, 130 for Ctrl-C, else 0.

    An error is one line on stderr. Warnings of libraries are not shown, unless Python's -W asks for them. Whether
    stderr can be written changes nothing.
    """
    global _notes
    # PyTorch and matplotlib make 200,000 objects that stay. To look for garbage among them takes a fifth of the time of
    # their imports, and a third of a second as the process ends.
    gc.set_threshold(10_000)
    atexit.register(gc.freeze)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed by whoever started the program, as with >&-
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - it stays open
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # as the scripts set it during their imports
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names can hold bytes that are no text
    if sys.stderr is sys.__stderr__ and isinstance(sys.stderr, io.TextIOWrapper):
        raw = Unfailing(sys.stderr.fileno(), "w", closefd=False)
        sys.stderr = io.TextIOWrapper(io.BufferedWriter(raw), errors="backslashreplace", line_buffering=True)
    os.environ["MPLBACKEND"] = "agg"  # nothing is shown, and matplotlib fails for a name that it does not know
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns of a home that cannot be written
    _notes, error, status = [], "", 0
    try:
        main()
        sys.stdout.flush()
    except InputError as problem:
        error, status = str(problem), 2
    except ResultError as problem:
        error, status = str(problem), 3
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        status = 1
    except OSError as problem:  # such as a full disk
        error, status = f"{problem.filename or 'input or output'}: {problem.strerror or problem}", 2
    finally:
        notes, _notes = _notes, None
    for message in notes if status in (0, 3) else ():
        note(message)
    if error:
        print(f"error: {printable(error)}", file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:  # what is left cannot be written; Python would try again as it exits, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def output_file(path: Path) -> Path:
    """The regular file that writing to `path` makes or replaces: where a link leads. Raises InputError for another."""
    try:
        target = path.resolve()
        if target.exists() and not target.is_file():
            raise InputError(f"{path}: is {'a folder' if target.is_dir() else 'not a regular file'}; name another file")
        folder = next(parent for parent in target.parents if parent.exists())
        for name in target.relative_to(folder).parts:  # the folders and the file to make: are such names allowed?
            with suppress(FileNotFoundError):
                (folder / name).lstat()
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # too long a name, links in a circle, half a character
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}; name another file") from None
    return target


def check_writable(path: Path) -> None:
    """Raise InputError if `atomic_write` could not write to `path`. Nothing is left on the disk."""
    folder = next(parent for parent in output_file(path).parents if parent.exists())  # `atomic_write` makes the others
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {folder}: {error.strerror}") from None


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """A buffer that becomes the file at `path` when the block ends without an error: written beside it, and renamed.

    A link stays, and so does the mode of an existing file. Raises InputError if `path` cannot be a regular file, and
    OSError with its name if it cannot be written. A program that is killed meanwhile can leave a hidden `.part` file.
    """
    target = output_file(path)
    yield (buffer := io.BytesIO())
    temporary = target.with_name(f".{uuid.uuid4().hex}.part")  # short, and unlike any other program's
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            if target.exists():
                temporary.chmod(stat.S_IMODE(target.stat().st_mode))
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def folder_lock(folder: Path, name: str, other: str, advice: str) -> Iterator[None]:
    """Keep other programs that ask for the lock of this name out of a folder, which must be there.

    InputError, with the `other` that has it and the advice, if there is one. The lock ends with its process.
    """
    with (folder / f".{name}.lock").open("a") as file:
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder}: {other} is on there; {advice}") from None
        except OSError:  # a disk without such locks
            pass
        yield
