"""Turn IAM-OnDB, as downloaded, into one .npz file of pen offsets, texts and statistics; and read that file.

    python data_preprocessing.py --source data --output data/iam-ondb.npz

What the file holds is written at `Dataset`. Coordinates are in whiteboard units, y grows downwards.
"""

from __future__ import annotations

import codecs
import gzip
import multiprocessing
import os
import signal
import tarfile
import threading
import zlib
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import groupby
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
from tqdm import tqdm

from handwriting.data.dataset import MIN_STD, SPLITS, Dataset, save_dataset
from handwriting.data.recordings import LINE_NAME, MAX_FILE_BYTES, clean_strokes, drop_rests, read_strokes, usable_bytes
from handwriting.data.transcriptions import read_transcription, tidy_texts
from handwriting.program import InputError, Parser, check_writable, printable, run_cli
from handwriting.strokes import SHORTEST_STEP

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `run_cli`: Ctrl-C in the seconds of the imports just ends it
STRUCK_OUT = "#*"  # marks of words that were struck out or corrected: the ink there is not what the text says
LISTS = {"trainset.txt": "train", "testset_f.txt": "train", "testset_t.txt": "train", "testset_v.txt": "validation"}


PreparedLine = tuple[str, np.ndarray, np.ndarray, Counter]  # name, offsets (T, 2), ends (T,), what was mended


def prepare_lines(batch: list[tuple[str, bytes | None]], keep_rests: bool) -> list[PreparedLine | tuple[str, str]]:
    """Read and clean some line files: a `PreparedLine` each, or (name, what is wrong)."""
    lines: list[PreparedLine | tuple[str, str]] = []
    for name, data in batch:
        try:
            positions, ends, counts = clean_strokes(*read_strokes(data))
        except ValueError as error:
            lines.append((name, str(error)))
            continue
        if not keep_rests:
            stays = drop_rests(positions, ends)
            positions, ends = positions[stays], ends[stays]
            counts["rests"] = int((~stays).sum())
        offsets = np.diff(positions, axis=0, prepend=positions[:1]).astype(np.int16)
        lines.append((name, offsets, ends, counts))
    return lines


def read_files(source: Path, folder: str, suffix: str) -> Iterator[tuple[str, bytes | None]]:
    """(stem, bytes) of every file in `folder`, unpacked or as the official archive, which is read in place.

    The bytes are None for what is no regular file; of a larger file they are the first `MAX_FILE_BYTES` + 1.
    """
    unpacked, archive = source / folder, source / f"{folder}-all.tar.gz"
    if unpacked.is_dir():
        for path in sorted(unpacked.rglob(f"*{suffix}")):
            if not path.is_file():  # a pipe could keep us waiting for ever
                yield path.stem, None
                continue
            with path.open("rb") as file:
                yield path.stem, file.read(MAX_FILE_BYTES + 1)
    elif archive.is_file():
        try:
            with gzip.open(archive) as unzipped, tarfile.open(fileobj=unzipped, mode="r|") as tar:
                for member in tar:
                    if member.name.endswith(suffix):
                        content = tar.extractfile(member) if member.isfile() else None
                        yield Path(member.name).stem, content.read(MAX_FILE_BYTES + 1) if content else None
                while unzipped.read(
                    1 << 20
                ):  # gzip compares its checksum at the very end, tarfile by itself never does
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


def read_lists(source: Path) -> dict[str, str] | None:
    """The official form list that each form is on; None where there are no lists."""
    missing = [name for name in LISTS if not (source / name).is_file()]
    if len(missing) == len(LISTS):
        return None
    if missing:
        raise InputError(f"{source}: lacks the form list {missing[0]}; give all four lists or none")
    list_of = {}
    for name in LISTS:
        for form in (source / name).read_bytes().removeprefix(codecs.BOM_UTF8).decode("latin-1").split():
            if list_of.setdefault(form, name) != name:
                raise InputError(f"{source / name}: form {form} is on {list_of[form]} too")
    return list_of


def split_of(form: str, list_of: dict[str, str] | None) -> str:
    """The official split of a form; without lists one form in eight, by its name alone, goes to validation."""
    if list_of is not None:
        return LISTS[list_of[form]] if form in list_of else "unlisted"
    return "validation" if zlib.crc32(form.encode()) % 8 == 0 else "train"


def end_with(process: BaseProcess) -> None:
    """Wait until another process has ended, and end this one."""
    process.join()
    os._exit(2)


def start_worker() -> None:
    """In a worker: leave Ctrl-C to the program, and end when it ends, however it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with, args=[multiprocessing.parent_process()], daemon=True).start()


def read_lines(source: Path, keep_rests: bool) -> tuple[list[PreparedLine], dict[str, str]]:
    """All line files of the source, read on all cores: the lines by name, and what is wrong with the other files."""
    lines, names, broken, waiting = [], set(), {}, deque()
    workers = min(os.cpu_count() or 1, 8)
    with (
        ProcessPoolExecutor(workers, initializer=start_worker) as pool,
        tqdm(unit=" lines", desc="reading", smoothing=0, disable=None) as progress,
    ):

        def collect() -> None:
            for name, *content in waiting.popleft().result():
                if len(content) == 1:
                    broken[name] = content[0]
                elif not LINE_NAME.fullmatch(name):
                    broken[name] = "its name is not of the form a01-000u-03"
                elif name in names:
                    broken[name] = "a second file of this name"
                else:
                    names.add(name)
                    lines.append((name, *content))
                progress.update()

        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # workers inherit it, before `start_worker` runs in them
        pool.submit(int)  # starts them
        signal.signal(signal.SIGINT, handler)
        for _, files in groupby(read_files(source, "lineStrokes", ".xml"), key=lambda file: file[0].rpartition("-")[0]):
            waiting.append(pool.submit(prepare_lines, list(files), keep_rests))
            if len(waiting) > 8 * workers:  # so that the archive is never in memory as a whole
                collect()
        while waiting:
            collect()
    return sorted(lines, key=lambda line: line[0]), broken


def pair_texts(names: list[str], broken: list[str], transcriptions: dict[str, list[str]]) -> tuple[list[str], set[str]]:
    """The tidied text of each line: line n of a form is line n of its transcription.

    Where a form has more lines of strokes than of text, no line of it can be trusted to be paired rightly. Returns
    the texts, "" for lines without one, and those forms.
    """
    places = [match.groups() for match in map(LINE_NAME.fullmatch, names) if match]
    last = Counter()
    for match in map(LINE_NAME.fullmatch, names + broken):
        if match:
            last[match[1]] = max(last[match[1]], int(match[2]))
    unpaired = {form for form, _ in places if last[form] > len(transcriptions.get(form, []))}
    tidied = {form: tidy_texts(transcriptions[form]) for form in {form for form, _ in places} - unpaired}
    return [
        "" if form in unpaired or int(number) < 1 else tidied[form][int(number) - 1] for form, number in places
    ], unpaired


def build_dataset(source: Path, keep_rests: bool = False) -> Dataset:
    """Read the whole source, print what was found, and return the data set. Raises InputError if nothing is usable."""
    list_of = read_lists(source)
    transcriptions, unusable = read_transcriptions(source)
    try:
        lines, broken = read_lines(source, keep_rests)
    except BrokenProcessPool:
        raise InputError("a process that reads lines has been killed, for want of memory perhaps; try again") from None
    for name, reason in sorted([*unusable.items(), *broken.items()]):
        print(f"skipped {printable(name, 80)}: {reason}")
    if not lines:
        raise InputError(f"{source}: no usable line of strokes; is this IAM-OnDB?")
    names, all_offsets, all_ends, counts = map(list, zip(*lines, strict=True))
    forms = [name.rpartition("-")[0] for name in names]
    texts, unpaired = pair_texts(names, list(broken), transcriptions)
    struck_out = [any(mark in text for mark in STRUCK_OUT) for text in texts]
    texts = ["" if out else text for text, out in zip(texts, struck_out, strict=True)]

    splits = np.array([split_of(form, list_of) for form in forms])
    if not (splits == "train").any():
        raise InputError(f"{source}: none of its forms is for training; check the form lists, or leave them out")
    lengths = np.array([len(offsets) for offsets in all_offsets])
    offsets = np.concatenate(all_offsets)
    in_training = offsets[np.repeat(splits == "train", lengths)]
    mean, std = in_training.mean(0, dtype=np.float64), in_training.std(0, dtype=np.float64)
    if (std < MIN_STD).any():
        raise InputError(f"{source}: the pen never moves along one of the axes; is this IAM-OnDB?")
    charset = sorted(set("".join(texts)))
    training_chars = Counter("".join(text for text, split in zip(texts, splits, strict=True) if split == "train"))
    dataset = Dataset(
        offsets=offsets,
        ends=np.concatenate(all_ends),
        starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        texts=np.array(texts, dtype=np.str_),
        names=np.array(names),
        splits=splits,
        charset=np.array(charset, dtype="U1"),
        char_counts=np.array([training_chars[character] for character in charset], dtype=np.int64),
        mean=mean,
        std=std,
        has_rests=np.array(keep_rests),
    )
    cleaned = sum(counts, Counter())
    without_text = sorted(unpaired - transcriptions.keys())
    with_less = sorted(unpaired & transcriptions.keys())
    print(f"{len(names)} lines of {len(set(forms))} forms read, {len(broken) + len(unusable)} files skipped")
    print(f"forms without a transcription: {' '.join(without_text) or 'none'}")
    print(f"forms with more lines of strokes than of text, kept for prediction only: {' '.join(with_less) or 'none'}")
    alone = sorted(transcriptions.keys() - set(forms))
    print(f"{len(alone)} transcriptions without strokes: {printable(' '.join(alone)) or 'none'}")
    print(f"lines with struck-out words, kept for prediction only: {sum(struck_out)}")
    print(f"recording errors: {cleaned['filled']} missing points filled in, {cleaned['cut']} steps cut")
    if keep_rests:
        print("points where the pen rests are kept")
    else:
        print(
            f"{cleaned['rests']} points where the pen rests dropped (less than {SHORTEST_STEP:g} units from the last)"
        )
    if list_of is None:
        print("no form lists found: one form in eight is for validation")
    else:
        listed = Counter(list_of.get(form, "no list") for form in forms)
        print("lines by form list: " + ", ".join(f"{listed[name]} on {name}" for name in [*LISTS, "no list"]))
    describe(dataset)
    if not (splits == "validation").any():
        print("no form has fallen into validation: train.py will refuse this data")
    return dataset


def describe(dataset: Dataset) -> None:
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


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
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
    dataset = build_dataset(options.source, options.keep_rests)
    save_dataset(dataset, options.output)
    print(f"wrote {options.output} ({options.output.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    run_cli(main)
