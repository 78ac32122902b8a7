"""The prepared data set, and its file."""

import hashlib
import io
import zipfile
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from handwriting.program import InputError, atomic_write

MAX_POSITION = 15_000  # whiteboard units, in x and y; two of them differ by an int16
MAX_DATASET_BYTES = 1 << 30  # all of IAM-OnDB takes 40 MB
# Of offsets, in whiteboard units: far beyond what a whiteboard and a pen can give, and safe to divide by.
MIN_STD, MAX_STD, MAX_MEAN = 1e-3, 1e6, 1e6
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


def save_dataset(dataset: Dataset, path: Path | str) -> None:
    """Write the .npz, whole or not at all."""
    with atomic_write(Path(path)) as file, zipfile.ZipFile(file, "w") as archive:
        for field in fields(Dataset):  # np.savez_compressed, but for the level: a fifth larger in a third of the time
            entry = zipfile.ZipInfo(f"{field.name}.npy")  # dated 1980: the same input gives the same bytes
            array = io.BytesIO()
            np.lib.format.write_array(array, getattr(dataset, field.name), allow_pickle=False)
            archive.writestr(entry, array.getbuffer(), zipfile.ZIP_DEFLATED, compresslevel=2)


def load_dataset(path: Path | str) -> Dataset:
    """Read the .npz. Raises InputError for a file that is missing, damaged or not of this form."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; make it with: python data_preprocessing.py --output {path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            if sum(entry.file_size for entry in file.zip.infolist()) > MAX_DATASET_BYTES:
                raise InputError(f"more than {MAX_DATASET_BYTES >> 20} MiB unpacked")
            data = Dataset(**{field.name: file[field.name] for field in fields(Dataset)})
        check_dataset(data)
    except PermissionError:
        raise
    except Exception as error:  # a damaged archive makes zipfile and numpy raise nearly anything
        # numpy's own words advise to trust the file
        reason = error if isinstance(error, KeyError | InputError) else type(error).__name__
        raise InputError(f"{path}: not a data set of this version, or damaged ({reason}); make it anew") from None
    return data


def check_statistics(mean: np.ndarray, std: np.ndarray) -> None:
    """Raise InputError for a mean or standard deviation of offsets (2,) that no handwriting has."""
    if not ((np.abs(mean) <= MAX_MEAN) & (std >= MIN_STD) & (std <= MAX_STD)).all():  # true for NaN
        raise InputError(f"mean {mean} and deviation {std} of its offsets are not those of handwriting")


def check_dataset(data: Dataset) -> None:
    """Raise InputError that names a part of a data set that is not as `Dataset` says, or too wild to work with."""
    lines, points, chars = data.names.size, data.ends.size, data.charset.size  # whatever their shapes
    forms = {
        "offsets": ("i", (points, 2)), "ends": ("b", (points,)), "starts": ("i", (lines + 1,)),
        "texts": ("U", (lines,)), "names": ("U", (lines,)), "splits": ("U", (lines,)), "charset": ("U", (chars,)),
        "char_counts": ("i", (chars,)), "mean": ("f", (2,)), "std": ("f", (2,)), "has_rests": ("b", ()),
    }  # fmt: skip
    for name, form in forms.items():
        if (getattr(data, name).dtype.kind, getattr(data, name).shape) != form:
            raise InputError(f"{name} has the wrong type or shape")
    check_statistics(data.mean, data.std)
    starts, charset, counts = data.starts.astype(float), data.charset.tolist(), Counter("".join(data.texts.tolist()))
    is_sound = {  # a line has two points or more; as floats their numbers cannot overflow
        "starts": lines > 0 and starts[0] == 0 and starts[-1] == points and (np.diff(starts) >= 2).all(),
        "offsets": data.offsets.min() >= -2 * MAX_POSITION and data.offsets.max() <= 2 * MAX_POSITION,
        "splits": set(data.splits.tolist()) <= set(SPLITS),
        "charset": charset == sorted(set(charset)) and all(len(c) == 1 and c.isprintable() for c in charset),
        "texts": counts.keys() <= set(charset),
        "char_counts": all(0 <= n <= counts[c] for c, n in zip(charset, data.char_counts.tolist(), strict=True)),
    }
    if faults := [name for name, sound in is_sound.items() if not sound]:
        raise InputError(f"wrong {', '.join(faults)}")
