"""Turn IAM-OnDB, as downloaded, or lines of your own into one .npz file of pen offsets, texts and statistics.

    python data_preprocessing.py --source data --output data/iam-ondb.npz
    python data_preprocessing.py --source lines.jsonl --output data/own.npz

What the file holds is written at `Dataset` in handwriting/data/dataset.py.
"""

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `run_cli`: Ctrl-C in the seconds of the imports just ends it

import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from handwriting.data.dataset import MIN_STD, SPLITS, Dataset, save_dataset
from handwriting.data.recordings import LINE_NAME, Recording, read_recording
from handwriting.data.sources import LARGEST_FILE, find_place, read_files, read_lists
from handwriting.data.transcriptions import STRUCK_OUT, read_transcription, tidy_texts
from handwriting.ink.own_lines import choose_splits, find_files, read_own_lines, record
from handwriting.program import InputError, Parser, check_writable, escaped, note, printable, progress_bar, run_cli
from handwriting.strokes import SHORTEST_STEP

FORM_LISTS = {  # the official lists of forms, and what their lines are for
    "trainset.txt": "train", "testset_f.txt": "train", "testset_t.txt": "train", "testset_v.txt": "validation"
}  # fmt: skip
MOST_TOLD = 20  # lines of one's own that are left out
Lines = tuple[dict[str, Recording], list[str], list[str]]  # by name; of each its text and split


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = Parser(description="Turn IAM-OnDB, or lines of your own, into one .npz file: see data/README.md.")
    add = parser.add_argument
    add("--source", type=Path, default=Path("data"), help="what holds IAM-OnDB, or your own ink (default: %(default)s)")
    add("--output", type=Path, help="file to write (default: data/iam-ondb.npz, or data/NAME.npz for own ink)")
    add("--keep_rests", action="store_true", help="keep the points where the pen rests, as the paper does")
    add("--keep_scale", action="store_true", help="own ink: it is in whiteboard units, with points as recorded lines")
    add("--by_writer", action="store_true", help="own ink: all lines of a writer are for training, or for validation")
    options = parser.parse_args(arguments)
    source, rests = options.source, options.keep_rests
    if not source.exists():
        raise InputError(f"{source}: no such file or folder; name what holds IAM-OnDB, or your ink, with --source")
    own = find_files(source) if source.is_file() or not find_place(source, "lineStrokes") else []
    output = options.output or Path("data", f"{source.stem}.npz" if own else "iam-ondb.npz")
    check_writable(output)
    if output.resolve() in (path.resolve() for path in own):
        raise InputError(f"{output}: is the source; name another file to write with --output")
    if (options.keep_scale or options.by_writer) and not own:
        raise InputError("--keep_scale and --by_writer are for ink of your own; leave them out")
    lines, texts, splits = (
        gather_own(source, rests, options.keep_scale, options.by_writer) if own else gather_corpus(source, rests)
    )
    if "train" not in splits:
        hint = "" if own else "; is this IAM-OnDB, and are the form lists its own?"
        raise InputError(f"{source}: no usable line for training{hint}")
    dataset = build_dataset(lines, texts, splits, rests)
    if (dataset.std < MIN_STD).any():
        raise InputError(f"{source}: the pen never moves along one of the axes; is this handwriting?")
    save_dataset(dataset, output)
    mended = sum((line.mended for line in lines.values()), Counter())
    print(f"recording errors: {mended['filled']} missing points filled in, {mended['cut']} steps cut")
    dropped = f"{mended['rests']} points where the pen rests dropped (less than {SHORTEST_STEP:g} units from the last)"
    print("points where the pen rests are kept" if rests else dropped)
    for split in SPLITS:
        chosen, usable = dataset.lines(split, False), dataset.lines(split, True)
        count, characters = np.diff(dataset.starts)[chosen].sum(), sum(map(len, dataset.texts[usable]))
        print(f"{split}: {len(chosen)} lines of {count} points; {len(usable)} with a text, {characters} characters")
    print(f"character set ({len(dataset.charset)}): {''.join(dataset.charset)}")
    print(f"offsets (x, y) over the training lines: mean {dataset.mean.round(4)}, deviation {dataset.std.round(4)}")
    print(f"wrote {escaped(output)} ({output.resolve().stat().st_size / 1e6:.1f} MB)")
    if mended["rests"] > len(dataset.offsets) / 3:
        note("many points are nearer than a pen moves; ink in other units than a whiteboard's goes in as .jsonl")


def gather_corpus(source: Path, keep_rests: bool) -> Lines:
    """The lines of IAM-OnDB."""
    split_of = read_form_lists(source)
    transcriptions, skipped = read_all(read_files(source, "ascii", ".txt"), read_transcription)
    read = partial(read_recording, keep_rests=keep_rests)
    lines, broken = read_all(read_files(source, "lineStrokes", ".xml"), read)
    for name in [name for name in lines if not LINE_NAME.fullmatch(name)]:
        del lines[name]
        broken[name] = "its name is not of the form a01-000u-03"
    for name, reason in sorted([*((f"{form}.txt", reason) for form, reason in skipped.items()), *broken.items()]):
        print(f"skipped {printable(name, 80)}: {reason}")
    texts = pair_texts(lines, broken, transcriptions)
    return lines, texts, [split_of(name.rpartition("-")[0]) for name in lines]


def gather_own(source: Path, keep_rests: bool, keep_scale: bool, by_writer: bool) -> Lines:
    """Lines of one's own, named for their writers as those of IAM-OnDB are for their forms."""
    found = dict(progress_bar(read_own_lines(source), unit=" lines", desc="reading"))
    good = {place: line for place, line in found.items() if not isinstance(line, str)}
    made = dict(zip(good, record([*good.values()], keep_scale, keep_rests), strict=True))
    bad = {place: found[place] if place not in good else "too long" for place in found if not made.get(place)}
    for place, reason in [*bad.items()][:MOST_TOLD]:
        print(f"skipped {printable(place, 200)}: {printable(reason, 200)}")
    print(f"{len(found) - len(bad)} lines read, {len(bad)} skipped")
    own, numbers, lines = [line for place, line in good.items() if made[place]], Counter(), {}
    for line, recording in zip(own, filter(None, made.values()), strict=True):
        numbers[line.writer] += 1
        lines[f"{line.writer}-{numbers[line.writer]:04}"] = recording
    return lines, [line.text for line in own], choose_splits(own, by_writer)


def read_form_lists(source: Path) -> Callable[[str], str]:
    """What a form is for, by the official lists. Without lists one form in eight, by its name alone, is validation."""
    lists = read_lists(source, FORM_LISTS)
    missing = [name for name in FORM_LISTS if name not in lists]
    if len(missing) == len(FORM_LISTS):
        print("no form lists found: one form in eight is for validation")
        return lambda form: "train" if zlib.crc32(form.encode()) % 8 else "validation"
    if missing:
        raise InputError(f"{source}: lacks the form list {missing[0]}; give all four lists or none")
    list_of = {}
    for name, (place, data) in lists.items():
        for form in data.removeprefix(b"\xef\xbb\xbf").decode("latin-1").split():
            if list_of.setdefault(form, name) != name:
                raise InputError(f"{place}: form {form} is on {list_of[form]} too")
    return lambda form: FORM_LISTS[list_of[form]] if form in list_of else "unlisted"


def read_all(files: Iterable[tuple[str, bytes | None]], read: Callable[[bytes], Any]) -> tuple[dict, dict]:
    """What `read` makes of files from `read_files`, by name, in its order; and what is wrong with the other files."""
    good, bad = {}, {}
    for name, data in progress_bar(files, unit=" files", desc="reading", smoothing=0):
        try:
            if data is None:
                raise ValueError("no regular file")
            if len(data) > LARGEST_FILE:
                raise ValueError(f"larger than {LARGEST_FILE >> 20} MiB")
            if name in good:
                raise ValueError("a second file of this name")
            good[name] = read(data)
        except ValueError as error:
            bad[name] = str(error)
    return dict(sorted(good.items())), bad


def pair_texts(lines: dict[str, Recording], broken: Iterable[str], transcriptions: dict[str, list[str]]) -> list[str]:
    """The text of each line, tidied; "" where none can be used. Prints which forms lack their other half.

    Line n of a form is line n of its transcription; `broken`, names of files that cannot be read, count as lines, too.
    Where a form has more lines of strokes than of text, none of them can be trusted to be paired rightly.
    """
    last = Counter()  # the number of each form's last line
    for match in filter(None, map(LINE_NAME.fullmatch, [*lines, *broken])):
        last[match[1]] = max(last[match[1]], int(match[2]))
    forms = {name.rpartition("-")[0] for name in lines}
    unpaired = {form for form in forms if last[form] > len(transcriptions.get(form, []))}
    without, too_short = sorted(unpaired - transcriptions.keys()), sorted(unpaired & transcriptions.keys())
    print(f"{len(lines)} lines of {len(forms)} forms read; {len(transcriptions.keys() - forms)} more transcriptions")
    print(f"forms without a transcription: {' '.join(without) or 'none'}")
    print(f"forms with more lines of strokes than of text, kept for prediction only: {' '.join(too_short) or 'none'}")
    tidied = {form: ["", *tidy_texts(transcriptions[form])] for form in forms - unpaired}  # by line number, from 1
    names = (name.rpartition("-") for name in lines)
    texts = [tidied[form][int(number)] if form in tidied else "" for form, _, number in names]
    return ["" if set(STRUCK_OUT) & set(text) else text for text in texts]


def build_dataset(lines: dict[str, Recording], texts: list[str], splits: list[str], has_rests: bool) -> Dataset:
    """The data set of lines by name, with a text and a split for each."""
    lengths = [len(line.ends) for line in lines.values()]
    offsets = np.concatenate([line.offsets for line in lines.values()])
    in_training = offsets[np.repeat(np.array(splits) == "train", lengths)]
    mean, std = in_training.mean(0, dtype=np.float64), in_training.std(0, dtype=np.float64)
    charset = sorted(set("".join(texts)))
    counts = Counter("".join(text for text, split in zip(texts, splits, strict=True) if split == "train"))
    return Dataset(
        offsets=offsets, ends=np.concatenate([line.ends for line in lines.values()]),
        starts=np.cumsum([0, *lengths], dtype=np.int64), texts=np.array(texts, dtype=np.str_),
        names=np.array([*lines]), splits=np.array(splits), charset=np.array(charset, dtype="U1"),
        char_counts=np.array([counts[character] for character in charset], dtype=np.int64),
        mean=mean, std=std, has_rests=np.array(has_rests),
    )  # fmt: skip


if __name__ == "__main__":
    run_cli(main)
