"""Turn IAM-OnDB, as downloaded, into one .npz file of pen offsets, texts and statistics; and read that file.

    python data_preprocessing.py --source data --output data/iam-ondb.npz

What the file holds is written at `Dataset`. Coordinates are in whiteboard units, y grows downwards.
"""

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `run_cli`: Ctrl-C in the seconds of the imports just ends it

import codecs
import gzip
import hashlib
import io
import math
import multiprocessing
import os
import re
import tarfile
import threading
import zipfile
import zlib
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, fields
from itertools import groupby
from multiprocessing.process import BaseProcess
from pathlib import Path
from xml.parsers import expat

import numpy as np
from lxml import etree
from tqdm import tqdm

from transcriptions import read_transcription, tidy_texts
from utils import (
    MAX_MEAN,
    MAX_STD,
    MIN_STD,
    PERIOD,
    SHORTEST_STEP,
    USUAL_STEP,
    InputError,
    Parser,
    atomic_write,
    check_writable,
    printable,
    run_cli,
)

# A step within a stroke that takes more than this has lost two readings or more, which are `PERIOD` apart. They are
# filled in `USUAL_STEP` apart, so that a resting pen gets none.
GAP = 0.045  # s
# Of 1.5 million steps, ten took longer than half a second or went back in time: the clock, or a pen at rest.
GREATEST_GAP = 0.5  # s
# 99.98 % of the steps within a stroke are shorter than this, eleven times the median. The longer ones point in all
# directions alike and few come back: the pen was lifted, or lost, without a record of it. They are no ink, so the
# stroke is cut in two there. What follows keeps its place. Jumps between strokes are longer by nature (median 175, up
# to the length of a line, for the dot of an i) and stay.
LONGEST_STEP = 200.0  # whiteboard units

MAX_POSITION = 15_000  # whiteboard units, in x and y; two of them differ by an int16
MAX_DATASET_BYTES = 1 << 30  # all of IAM-OnDB takes 40 MB
MAX_FILE_BYTES = 4 << 20  # the largest file of IAM-OnDB has 0.13 MB
STRUCK_OUT = "#*"  # marks of words that were struck out or corrected: the ink there is not what the text says
LISTS = {"trainset.txt": "train", "testset_f.txt": "train", "testset_t.txt": "train", "testset_v.txt": "validation"}
LINE_NAME = re.compile(r"([\w.-]{1,60})-([0-9]{1,3})")  # a01-000u-03: the third line of form a01-000u
SPLITS = ("train", "validation", "unlisted")


@dataclass(frozen=True)
class Dataset:
    """The prepared data: N points in L lines, each field an array of the .npz under its own name.

    The first point of a line is where the pen first touches the board, with offset (0, 0). A line without a usable
    text (no transcription, or struck-out words) has the text "" and serves prediction only.
    """

    offsets: np.ndarray  # (N, 2) int16: x and y from the point before, whiteboard units
    ends: np.ndarray  # (N,) bool: the pen is lifted after this point
    starts: np.ndarray  # (L + 1,) int64: line i is the rows starts[i] to starts[i + 1]
    texts: np.ndarray  # (L,) str
    names: np.ndarray  # (L,) str, as a01-000u-01
    splits: np.ndarray  # (L,) str, one of SPLITS
    charset: np.ndarray  # (C,) str, one character each, sorted; a character's code is its place here
    char_counts: np.ndarray  # (C,) int64: how often the training lines have it
    mean: np.ndarray  # (2,) float64: of the offsets over the training lines, per axis
    std: np.ndarray  # (2,) float64
    has_rests: np.ndarray  # () bool: points where the pen rests were kept, as in the paper

    def points(self, line: int) -> np.ndarray:
        """Line number `line` as (T, 3) float32: x and y offset in whiteboard units, end-of-stroke bit."""
        rows = slice(self.starts[line], self.starts[line + 1])
        return np.column_stack([self.offsets[rows], self.ends[rows]]).astype(np.float32)

    @property
    def rests(self) -> str:
        """What was done with the points where the pen rests, for whoever reports a figure on this data."""
        return "rests kept" if self.has_rests else "rests dropped"

    def fingerprint(self) -> str:
        """A hash of all that the data set holds, to tell whether a run goes on with the data it began with."""
        found = hashlib.sha256()
        for field in fields(self):
            array = np.ascontiguousarray(getattr(self, field.name))
            found.update(f"{field.name} {array.dtype} {array.shape}".encode() + array.tobytes())
        return found.hexdigest()

    def lines(self, split: str, with_text: bool) -> np.ndarray:
        """Numbers of the lines of a split; `with_text`: only those whose text can be used."""
        return np.flatnonzero((self.splits == split) & ((self.texts != "") | (not with_text)))


def save_dataset(dataset: Dataset, path: Path) -> None:
    """Write the .npz, whole or not at all."""
    with atomic_write(path) as file, zipfile.ZipFile(file, "w") as archive:
        for field in fields(Dataset):  # np.savez_compressed, but for the level: a fifth larger in a third of the time
            entry = zipfile.ZipInfo(f"{field.name}.npy")  # dated 1980: the same input gives the same bytes
            array = io.BytesIO()
            np.lib.format.write_array(array, getattr(dataset, field.name), allow_pickle=False)
            archive.writestr(entry, array.getbuffer(), zipfile.ZIP_DEFLATED, compresslevel=2)


def load_dataset(path: Path) -> Dataset:
    """Read the .npz. Raises InputError for a file that is missing, damaged or not of this form."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; make it with: python data_preprocessing.py --output {path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            if sum(entry.file_size for entry in file.zip.infolist()) > MAX_DATASET_BYTES:
                raise InputError(f"{path}: more than {MAX_DATASET_BYTES >> 20} MiB unpacked; make it anew")
            data = Dataset(**{field.name: file[field.name] for field in fields(Dataset)})
    except (PermissionError, InputError):
        raise
    except Exception as error:  # a damaged archive makes zipfile and numpy raise nearly anything
        reason = str(error) if isinstance(error, KeyError) else type(error).__name__  # numpy's words advise to trust it
        raise InputError(f"{path}: not a data set of this version, or damaged ({reason}); make it anew") from None
    try:
        check_dataset(data)
    except ValueError as error:
        raise InputError(f"{path}: not a data set of this version ({error}); make it anew") from None
    return data


def check_dataset(data: Dataset) -> None:
    """Raise ValueError that says what is wrong with a data set, if anything is."""
    lines, points, chars = data.names.size, data.ends.size, data.charset.size  # whatever their shapes
    expected = {
        "offsets": ("i", (points, 2)), "ends": ("b", (points,)), "starts": ("i", (lines + 1,)),
        "texts": ("U", (lines,)), "names": ("U", (lines,)), "splits": ("U", (lines,)), "charset": ("U", (chars,)),
        "char_counts": ("i", (chars,)), "mean": ("f", (2,)), "std": ("f", (2,)), "has_rests": ("b", ()),
    }  # fmt: skip
    for name, form in expected.items():
        if (getattr(data, name).dtype.kind, getattr(data, name).shape) != form:
            raise ValueError(f"{name} has the wrong type or shape")
    starts = data.starts
    if lines == 0 or starts[0] != 0 or starts[-1] != points or starts.min() < 0 or starts.max() > points:
        raise ValueError("the starts of its lines are beyond its points")
    if (np.diff(starts) < 2).any():
        raise ValueError("a line of fewer than two points")
    if data.offsets.min() < -2 * MAX_POSITION or data.offsets.max() > 2 * MAX_POSITION:
        raise ValueError(f"an offset of more than {2 * MAX_POSITION} units")
    if not ((np.abs(data.mean) <= MAX_MEAN) & (data.std >= MIN_STD) & (data.std <= MAX_STD)).all():
        raise ValueError(
            f"its statistics are not usable (mean {data.mean}, standard deviation {data.std}, wanted from {MIN_STD:g})"
        )
    if not set(data.splits.tolist()) <= set(SPLITS):
        raise ValueError(f"a split other than {', '.join(SPLITS)}")
    charset = data.charset.tolist()
    if charset != sorted(set(charset)) or not all(len(c) == 1 and c.isprintable() for c in charset):
        raise ValueError("its character set is not made of single characters, sorted, each once")
    counts = Counter("".join(data.texts.tolist()))
    if not counts.keys() <= set(charset):
        raise ValueError("a text with characters that are not in its character set")
    if not all(0 <= count <= counts[c] for c, count in zip(charset, data.char_counts.tolist(), strict=True)):
        raise ValueError("its character counts do not fit its texts")


def usable_bytes(data: bytes | None) -> bytes:
    """The bytes of a file as `read_files` gives them. Raises ValueError if it is no regular file, or too large."""
    if data is None:
        raise ValueError("no regular file")
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"larger than {MAX_FILE_BYTES >> 20} MiB")
    return data


# No entities and nothing from the network; lxml's limits on sizes stand. The last two only save time.
PARSER = etree.XMLParser(resolve_entities=False, no_network=True, collect_ids=False, remove_blank_text=True)
# XPath hands out attributes without making a Python object of each of eight million elements.
POINT_COLUMNS = [etree.XPath(f"//Stroke/Point/@{name}", smart_strings=False) for name in ("x", "y", "time")]


def refuse_doctype(data: bytes) -> None:
    """Raise ValueError for an XML file with a DOCTYPE, or one that is no XML up to its first element.

    A DOCTYPE can make lxml read other local files, whatever the parser's flags. Expat reads none, and stops before it.
    """

    def refuse(*_: object) -> None:
        raise ValueError("has a DOCTYPE, which could name other files to read")

    def accept(*_: object) -> None:
        raise StopIteration

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = accept  # no DOCTYPE can follow the first element
    try:
        parser.Parse(data, True)
    except StopIteration:
        pass
    except (expat.ExpatError, LookupError) as error:  # LookupError: an encoding that Python does not know
        raise ValueError(f"XML error: {error}") from None


def read_strokes(data: bytes | None) -> tuple[np.ndarray, np.ndarray]:
    """Points of a line file (n, 3): x, y, time in seconds; and which are the last of a stroke (n,).

    Raises ValueError if the file cannot be read.
    """
    refuse_doctype(usable_bytes(data))
    try:
        root = etree.fromstring(data, PARSER)
    except etree.XMLSyntaxError as error:
        raise ValueError(f"XML error: {error}") from None
    try:
        points = np.array([column(root) for column in POINT_COLUMNS], dtype=np.float64).T
    except ValueError:  # not a number, or columns of different lengths
        raise ValueError("a point without a number for x, y or time") from None
    if not np.isfinite(points).all() or (np.abs(points[:, :2]) > MAX_POSITION).any():
        raise ValueError("a point far outside the whiteboard")
    if len(points) < 2:
        raise ValueError("fewer than two points")
    counts = [len(stroke) for stroke in root.iter("Stroke") if len(stroke)]
    if sum(counts) != len(points):
        raise ValueError("a stroke with something else than points in it")
    last = np.zeros(len(points), dtype=bool)
    last[np.cumsum(counts) - 1] = True
    return points, last


def clean_strokes(points: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray, Counter]:
    """Mend recording errors (section 4: missing readings interpolated, steps above a threshold removed).

    Takes what `read_strokes` returns. Returns positions (T, 2) in whole whiteboard units, end-of-stroke bits (T,), and
    how many points were filled in and how many steps cut.
    """
    step, gap = np.hypot(*np.diff(points[:, :2], axis=0).T), np.diff(points[:, 2])  # (n - 1,)
    lost = ~last[:-1] & (gap > GAP) & (gap <= GREATEST_GAP)
    pieces = np.minimum(np.rint(gap / PERIOD), np.ceil(step / USUAL_STEP))
    lost &= step <= LONGEST_STEP * pieces  # else it is no ink, and is cut below
    pieces = np.where(lost, np.maximum(pieces, 1), 1).astype(int)  # a step of k pieces gets k - 1 new points
    place = np.concatenate([[0], np.cumsum(pieces)])  # of the recorded points among the new ones
    at = np.arange(place[-1] + 1)
    positions = np.rint(np.column_stack([np.interp(at, place, points[:, axis]) for axis in (0, 1)]))
    ends = np.zeros(len(positions), dtype=bool)
    ends[place] = last
    cut = ~ends[:-1] & (np.hypot(*np.diff(positions, axis=0).T) > LONGEST_STEP)
    ends[:-1] |= cut
    return positions, ends, Counter(filled=len(positions) - len(points), cut=int(cut.sum()))


def drop_rests(positions: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Which points stay when the pen's rests go, (T,) bool, for positions (T, 2) and end-of-stroke bits (T,).

    Within a stroke a point nearer than `SHORTEST_STEP` to the last one that stayed goes. A stroke's first and last
    points stay.
    """
    stays = []
    begins_stroke, last_x, last_y = True, 0.0, 0.0  # of the last point that stayed
    for x, y, ends_stroke in zip(*positions.T.tolist(), ends.tolist(), strict=True):
        stay = begins_stroke or ends_stroke or math.hypot(x - last_x, y - last_y) >= SHORTEST_STEP
        if stay:
            last_x, last_y = x, y
        stays.append(stay)
        begins_stroke = ends_stroke
    return np.array(stays, dtype=bool)


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
