"""Turn IAM-OnDB, as downloaded, into one .npz file of pen offsets, texts and statistics.

    python data_preprocessing.py --source data --output data/iam-ondb.npz

What the file holds is written at `Dataset` in handwriting/data/dataset.py. Coordinates are in whiteboard units, y grows
downwards.
"""

from __future__ import annotations

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `run_cli`: Ctrl-C in the seconds of the imports just ends it
if __name__ == "__mp_main__":  # a worker that is spawned, as on macOS and Windows; see `start_workers`
    signal.signal(signal.SIGINT, signal.SIG_IGN)

import argparse
import codecs
import gzip
import multiprocessing
import os
import tarfile
import threading
import zlib
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import groupby
from pathlib import Path

import numpy as np
from tqdm import tqdm

from handwriting.data.dataset import SPLITS, Dataset, save_dataset
from handwriting.data.preparation import Pairing, build_dataset, form_of, pair_texts
from handwriting.data.recordings import LARGEST_CORPUS_FILE, LINE_NAME, Recording, read_recording, usable_bytes
from handwriting.data.transcriptions import read_transcription
from handwriting.program import InputError, Parser, check_writable, printable, run_cli
from handwriting.strokes import SHORTEST_STEP

FORM_LISTS = {  # the official lists of forms, and what their lines are for
    "trainset.txt": "train", "testset_f.txt": "train", "testset_t.txt": "train", "testset_v.txt": "validation"
}  # fmt: skip
MAX_WORKERS = 8


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    options = read_flags(arguments)
    source = options.source
    list_of = read_lists(source)
    transcriptions, bad_texts = read_transcriptions(source)
    lines, bad_lines = read_lines(source, options.keep_rests)
    skipped = sorted([*bad_texts.items(), *bad_lines.items()])
    for name, reason in skipped:
        print(f"skipped {printable(name, 80)}: {reason}")
    pairing = pair_texts([*lines], bad_lines, transcriptions)
    splits = [split_of(form_of(name), list_of) for name in lines]
    try:
        dataset = build_dataset(lines, pairing.texts, splits, options.keep_rests)
    except ValueError as error:
        raise InputError(f"{source}: {error}") from None
    save_dataset(dataset, options.output)
    tell_source(lines, pairing, transcriptions, list_of, len(skipped), options.keep_rests)
    tell_dataset(dataset)
    print(f"wrote {options.output} ({options.output.stat().st_size / 1e6:.1f} MB)")


def read_flags(arguments: list[str] | None) -> argparse.Namespace:
    """The flags, checked before any work is done."""
    parser = Parser(description="Turn IAM-OnDB into one .npz file of pen offsets.")
    parser.add_argument(
        "--source", type=Path, default=Path("data"), metavar="DIR",
        help="folder with lineStrokes-all.tar.gz and ascii-all.tar.gz, or with both unpacked, and if at hand the four "
        "form lists of the benchmark task (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, default=Path("data/iam-ondb.npz"), metavar="FILE",
        help="where to write the prepared data (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--keep_rests", action="store_true",
        help="keep the points where the pen rests, as the paper does; networks that learn them may rest for ever",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    if not options.source.is_dir():
        raise InputError(f"{options.source}: no such folder; name the one that holds IAM-OnDB with --source")
    check_writable(options.output)
    return options


# ------------------------------------------------------------------------------------------------------ lists and files


def read_lists(source: Path) -> dict[str, str] | None:
    """The official form list that each form is on; None where there are no lists."""
    missing = [name for name in FORM_LISTS if not (source / name).is_file()]
    if len(missing) == len(FORM_LISTS):
        return None
    if missing:
        raise InputError(f"{source}: lacks the form list {missing[0]}; give all four lists or none")
    list_of = {}
    for name in FORM_LISTS:
        for form in (source / name).read_bytes().removeprefix(codecs.BOM_UTF8).decode("latin-1").split():
            if list_of.setdefault(form, name) != name:
                raise InputError(f"{source / name}: form {form} is on {list_of[form]} too")
    return list_of


def split_of(form: str, list_of: dict[str, str] | None) -> str:
    """The official split of a form; without lists one form in eight, by its name alone, goes to validation."""
    if list_of is not None:
        return FORM_LISTS[list_of[form]] if form in list_of else "unlisted"
    return "validation" if zlib.crc32(form.encode()) % 8 == 0 else "train"


def read_files(source: Path, folder: str, suffix: str) -> Iterator[tuple[str, bytes | None]]:
    """(stem, bytes) of every file in `folder`, unpacked or as the official archive, which is read in place.

    The bytes are None for what is no regular file; of a larger file they are the first `LARGEST_CORPUS_FILE` + 1.
    """
    unpacked, archive = source / folder, source / f"{folder}-all.tar.gz"
    if unpacked.is_dir():
        for path in sorted(unpacked.rglob(f"*{suffix}")):
            if not path.is_file():  # a pipe could keep us waiting for ever
                yield path.stem, None
                continue
            with path.open("rb") as file:
                yield path.stem, file.read(LARGEST_CORPUS_FILE + 1)
    elif archive.is_file():
        try:
            with gzip.open(archive) as unzipped, tarfile.open(fileobj=unzipped, mode="r|") as tar:
                for member in tar:
                    if member.name.endswith(suffix):
                        content = tar.extractfile(member) if member.isfile() else None
                        yield Path(member.name).stem, content.read(LARGEST_CORPUS_FILE + 1) if content else None
                # tarfile stops before the very end, where gzip compares its checksum
                while unzipped.read(1 << 20):
                    pass
        except PermissionError:
            raise
        except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
            raise InputError(f"{archive}: damaged ({error}); download it again") from None
    else:
        raise InputError(
            f"{source}: holds neither {archive.name} nor {folder}/; put IAM-OnDB there, or name its folder by --source"
        )


def read_transcriptions(source: Path) -> tuple[dict[str, list[str]], dict[str, str]]:
    """All transcriptions of the source: lines of text by form, and what is wrong with the other files."""
    transcriptions, broken = {}, {}
    for form, data in read_files(source, "ascii", ".txt"):
        try:
            transcriptions[form] = read_transcription(usable_bytes(data))
        except ValueError as error:
            broken[f"{form}.txt"] = str(error)
    return transcriptions, broken


# ---------------------------------------------------------------------------------------------------- lines of strokes


def read_lines(source: Path, keep_rests: bool) -> tuple[dict[str, Recording], dict[str, str]]:
    """All line files of the source: the recordings by name, in its order, and what is wrong with the other files."""
    lines: dict[str, Recording] = {}
    broken = {}
    files = read_files(source, "lineStrokes", ".xml")
    try:
        for name, found in tqdm(
            read_on_all_cores(files, keep_rests), unit=" lines", desc="reading", smoothing=0, disable=None
        ):
            if isinstance(found, str):
                broken[name] = found
            elif not LINE_NAME.fullmatch(name):
                broken[name] = "its name is not of the form a01-000u-03"
            elif name in lines:
                broken[name] = "a second file of this name"
            else:
                lines[name] = found
    except BrokenProcessPool:
        raise InputError("a process that reads lines has been killed, for want of memory perhaps; try again") from None
    return dict(sorted(lines.items())), broken


def read_on_all_cores(
    files: Iterator[tuple[str, bytes | None]], keep_rests: bool
) -> Iterator[tuple[str, Recording | str]]:
    """Name and recording of each line file, or name and what is wrong with it, in the order of the files."""
    workers, waiting = min(os.cpu_count() or 1, MAX_WORKERS), deque()
    with ProcessPoolExecutor(workers, initializer=prepare_worker) as pool:
        start_workers(pool, workers)
        for _, batch in groupby(files, key=lambda file: form_of(file[0])):
            waiting.append(pool.submit(read_recordings, list(batch), keep_rests))
            if len(waiting) > 8 * workers:  # so that the archive is never in memory as a whole
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def read_recordings(files: list[tuple[str, bytes | None]], keep_rests: bool) -> list[tuple[str, Recording | str]]:
    """Name and recording of each line file, or name and what is wrong with it."""
    found: list[tuple[str, Recording | str]] = []
    for name, data in files:
        try:
            found.append((name, read_recording(data, keep_rests)))
        except ValueError as error:
            found.append((name, str(error)))
    return found


def start_workers(pool: ProcessPoolExecutor, workers: int) -> None:
    """Start the workers with Ctrl-C ignored, which they inherit: it is for the program, whose end they follow.

    The tests do this with all ways to start a process on Linux; it was never run on macOS or Windows. On Windows a
    worker inherits nothing, and Ctrl-C in the moment before it comes to this file shows its traceback.
    """
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    for _ in range(workers):  # a pool that forks starts all at once, any other one at each task that finds none idle
        pool.submit(int)
    signal.signal(signal.SIGINT, handler)


def prepare_worker() -> None:
    """In a worker: leave Ctrl-C to the program, and end when it ends, however it does."""

    def end_with_program() -> None:
        if program := multiprocessing.parent_process():
            program.join()
            os._exit(2)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_program, daemon=True).start()


# ------------------------------------------------------------------------------------------------------- what is told


def tell_source(
    lines: dict[str, Recording], pairing: Pairing, transcriptions: dict[str, list[str]],
    list_of: dict[str, str] | None, skipped: int, keep_rests: bool,
) -> None:  # fmt: skip
    """Print what was found, what was mended, and what lacks its other half."""
    forms = [form_of(name) for name in lines]
    without_text = sorted(pairing.unpaired - transcriptions.keys())
    with_less = sorted(pairing.unpaired & transcriptions.keys())
    alone = sorted(transcriptions.keys() - set(forms))
    mended = sum((line.mended for line in lines.values()), Counter())
    print(f"{len(lines)} lines of {len(set(forms))} forms read, {skipped} files skipped")
    print(f"forms without a transcription: {' '.join(without_text) or 'none'}")
    print(f"forms with more lines of strokes than of text, kept for prediction only: {' '.join(with_less) or 'none'}")
    print(f"{len(alone)} transcriptions without strokes: {printable(' '.join(alone)) or 'none'}")
    print(f"lines with struck-out words, kept for prediction only: {pairing.struck_out}")
    print(f"recording errors: {mended['filled']} missing points filled in, {mended['cut']} steps cut")
    dropped = f"{mended['rests']} points where the pen rests dropped (less than {SHORTEST_STEP:g} units from the last)"
    print("points where the pen rests are kept" if keep_rests else dropped)
    if list_of is None:
        print("no form lists found: one form in eight is for validation")
    else:
        listed = Counter(list_of.get(form, "no list") for form in forms)
        print("lines by form list: " + ", ".join(f"{listed[name]} on {name}" for name in [*FORM_LISTS, "no list"]))


def tell_dataset(dataset: Dataset) -> None:
    """Print the counts and statistics of a data set."""
    lengths = np.diff(dataset.starts)
    for split in SPLITS:
        chosen, usable = dataset.lines(split, False), dataset.lines(split, True)
        if len(chosen):
            characters = sum(map(len, dataset.texts[usable]))
            print(
                f"{split}: {len(chosen)} lines, {lengths[chosen].sum()} points; "
                f"with text {len(usable)} lines, {lengths[usable].sum()} points, {characters} characters"
            )
    print(f"character set ({len(dataset.charset)}): {''.join(dataset.charset)}")
    print("offsets over the training lines, whiteboard units:")
    for axis, mean, std in zip("xy", dataset.mean, dataset.std, strict=True):
        print(f"  {axis}: mean {mean:.4f}, deviation {std:.4f}")
    if not len(dataset.lines("validation", False)):
        print("no form has fallen into validation: train.py will refuse this data")


if __name__ == "__main__":
    run_cli(main)
