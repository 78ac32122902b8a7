"""Where the files of IAM-OnDB are: unpacked or in archives, as its makers or as mirrors lay them out."""

import gzip
import io
import re
import tarfile
import zipfile
from collections.abc import Callable, Container, Iterator
from functools import partial
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from handwriting.program import InputError

LARGEST_FILE = 4 << 20  # bytes; the largest line file of IAM-OnDB has 0.13 MB
# Of an archive: files, bytes when unpacked, and bytes of headers before a file. IAM-OnDB has 15,000 files of 0.45 GB.
MOST_FILES, MOST_BYTES, MOST_HEADER = 200_000, 4 << 30, 32 << 10
MOST_INDEX = 32 << 20  # bytes of the index of a .zip
ARCHIVE = re.compile(r"(.+)\.(tar\.gz|tgz|tar|zip)", re.IGNORECASE)
Files = Iterator[tuple[PurePath, bytes | None]]  # see `read_files`
Contents = Iterator[tuple[PurePath, Callable[[], Any] | None]]  # with what opens each, before the next one


def is_named(path: PurePath, collection: str) -> bool:
    """Whether a folder or archive is named for a collection, as lineStrokes-all.tgz or linestrokes."""
    match = ARCHIVE.fullmatch(path.name)
    return (match[1] if match else path.name).lower().removesuffix("-all") == collection.lower()


def find_paths(source: Path) -> list[Path]:
    """What is in a folder, or in folders in it: those on top come first."""
    return [path for pattern in ("*", "*/*", "*/*/*") for path in sorted(source.glob(pattern))]


def find_place(source: Path, collection: str) -> Path | None:
    """The folder or archive with the files of a collection: one named for it, or the only archive; None without one."""
    if source.is_file():
        return source
    paths = find_paths(source)
    archives = [path for path in paths if ARCHIVE.fullmatch(path.name) and path.is_file()]
    folders = [path for path in paths if is_named(path, collection) and path.is_dir()]
    found = folders + [path for path in archives if is_named(path, collection)]
    return next(iter(found or (archives if len(archives) == 1 else [])), None)


def read_files(source: Path, collection: str, suffix: str) -> Iterator[tuple[str, bytes | None]]:
    """(stem, bytes) of every file of a collection, as lineStrokes: in its folder, or in an archive, read in place.

    The bytes are None for what is no regular file; of a larger file they are the first `LARGEST_FILE` + 1. Raises
    InputError if there is no such collection, and for an archive that is damaged or beyond all bounds.
    """
    place, count = find_place(source, collection), 0
    is_own = place is not None and is_named(place, collection)  # else it has other files, too

    def is_wanted(path: PurePath) -> bool:
        is_within = is_own or any(is_named(folder, collection) for folder in path.parents)
        return path.suffix.lower() == suffix and not path.name.startswith("._") and is_within

    for path, data in (read_folder if place.is_dir() else read_archive)(place, is_wanted) if place else ():
        count += 1
        yield path.stem, data
    if not count:
        names = f"{collection}-all.tar.gz nor {collection}/"
        raise InputError(f"{source}: holds neither {names} with {suffix} files; name IAM-OnDB's folder with --source")


def read_lists(source: Path, names: Container[str]) -> dict[str, tuple[str, bytes]]:
    """Files of these names, in any case, in a folder, or else in its only archive: where each is, and its bytes."""
    place, found = find_place(source, "lineStrokes"), {}
    for path in find_paths(source):
        if path.name.lower() in names and path.is_file():
            found.setdefault(path.name.lower(), (str(path), path.read_bytes()))
    if not found and place and place.is_file() and not is_named(place, "lineStrokes"):
        for inner, data in read_archive(place, lambda path: path.name.lower() in names):
            found[inner.name.lower()] = f"{place}: {inner}", data or b""
    return found


def read_folder(folder: Path, is_wanted: Callable[[PurePath], bool]) -> Files:
    """The files of a folder that are wanted."""
    for path in sorted(folder.rglob("*")):
        if is_wanted(path) and path.is_file():
            with path.open("rb") as file:
                yield path, file.read(LARGEST_FILE + 1)
        elif is_wanted(path) and not path.is_dir():  # a pipe could keep us waiting for ever
            yield path, None


def read_archive(archive: Path, is_wanted: Callable[[PurePath], bool]) -> Files:
    """The files of an archive that are wanted."""
    try:
        total = 0
        for number, (path, opened) in enumerate((read_zip if zipfile.is_zipfile(archive) else read_tar)(archive)):
            if number >= MOST_FILES or total > MOST_BYTES:
                raise ValueError(f"more than {MOST_FILES} files, or {MOST_BYTES >> 30} GiB")
            if is_wanted(path):
                with opened() if opened else io.BytesIO() as content:
                    data = content.read(LARGEST_FILE + 1)
                total += len(data)
                yield path, data if opened else None
    except Exception as error:  # a damaged archive makes zipfile and tarfile raise nearly anything
        if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
            raise
        reason = str(error) or type(error).__name__
        raise InputError(f"{archive}: damaged, or no such archive ({reason}); download it again") from None


def read_zip(archive: Path) -> Contents:
    """The files of a .zip."""
    with archive.open("rb") as file:
        file.seek(max(0, archive.stat().st_size - (1 << 16) - 22))
        end = file.read()  # with the record that tells how long the index is
        place = end.rfind(b"PK\5\6") + 12
        if int.from_bytes(end[place : place + 4], "little") > MOST_INDEX:
            raise ValueError("its index is too long")
        with zipfile.ZipFile(file) as unzipped:
            for entry in unzipped.infolist():
                if not entry.is_dir():
                    yield PurePosixPath(entry.filename), partial(unzipped.open, entry)


def read_tar(archive: Path) -> Contents:
    """The files of a .tar, zipped or not."""
    with archive.open("rb") as file:
        is_zipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        stream: Any = Forwards(gzip.GzipFile(fileobj=file) if is_zipped else file)
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                stream.left = LARGEST_FILE + MOST_HEADER
                if not member.isdir():
                    yield PurePosixPath(member.name), partial(tar.extractfile, member) if member.isfile() else None
                stream.left = MOST_HEADER
        if len(stream.last) < tarfile.BLOCKSIZE or any(stream.last):
            raise ValueError("it is cut off, or a header is wrong")
        stream.seek(2 * MOST_BYTES)  # tarfile stops before the very end, where gzip compares its checksum


class Forwards:
    """A stream that tarfile reads without going back, and within bounds: ValueError beyond them."""

    def __init__(self, stream: Any):
        self.stream, self.place, self.last = stream, 0, b""
        self.left = MOST_HEADER  # bytes that may be read before more are granted

    def tell(self) -> int:
        """Where it is."""
        return self.place

    def read(self, size: int) -> bytes:
        """The next bytes."""
        self.left -= size
        if size < 0 or self.left < 0:
            raise ValueError("its headers are too long")
        self.last = self.stream.read(size)
        self.place += len(self.last)
        return self.last

    def seek(self, place: int) -> None:
        """Go on to a place, or to the end if that comes first."""
        if place < self.place:
            raise ValueError("its parts overlap")
        while self.place < place and (data := self.stream.read(min(place - self.place, 1 << 20))):
            self.place += len(data)
            if self.place > MOST_BYTES:
                raise ValueError(f"more than {MOST_BYTES >> 30} GiB")
