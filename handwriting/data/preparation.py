"""From recordings and transcriptions to the data set: which text is whose, and the statistics of training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from handwriting.data.dataset import MIN_STD, Dataset
from handwriting.data.recordings import LINE_NAME, Recording
from handwriting.data.transcriptions import STRUCK_OUT, tidy_texts


class Pairing(NamedTuple):
    """What lines say, and why some lines have no text that can be used."""

    texts: list[str]  # "" where there is none
    struck_out: int  # how many lines have words that were struck out
    unpaired: set[str]  # forms that have fewer lines of text than of strokes, or none


def form_of(name: str) -> str:
    """The form that a line is on: a01-000u for a01-000u-03."""
    return name.rpartition("-")[0]


def pair_texts(names: Sequence[str], broken: Iterable[str], transcriptions: Mapping[str, list[str]]) -> Pairing:
    """Pair lines with their texts, tidied: line n of a form is line n of its transcription.

    `broken` are the names of files that cannot be read: they count as lines, too. Where a form has more lines of
    strokes than of text, none of its lines can be trusted to be paired rightly.
    """
    places = {match[0]: (match[1], int(match[2])) for match in map(LINE_NAME.fullmatch, [*names, *broken]) if match}
    last = Counter()  # the number of each form's last line
    for form, number in places.values():
        last[form] = max(last[form], number)
    forms = {form_of(name) for name in names}
    unpaired = {form for form in forms if last[form] > len(transcriptions.get(form, []))}
    tidied = {form: tidy_texts(transcriptions[form]) for form in forms - unpaired}
    texts, struck_out = [], 0
    for form, number in (places[name] for name in names):
        text = tidied[form][number - 1] if form in tidied and number else ""
        is_struck_out = any(mark in text for mark in STRUCK_OUT)
        struck_out += is_struck_out
        texts.append("" if is_struck_out else text)
    return Pairing(texts, struck_out, unpaired)


def build_dataset(
    lines: Mapping[str, Recording], texts: Sequence[str], splits: Sequence[str], has_rests: bool
) -> Dataset:
    """The data set of lines by name, with a text and a split for each.

    Raises ValueError, which says what to do, if no network can be trained on it.
    """
    if not lines:
        raise ValueError("no usable line of strokes; is this IAM-OnDB?")
    if "train" not in splits:
        raise ValueError("none of its forms is for training; check the form lists, or leave them out")
    lengths = [len(line.ends) for line in lines.values()]
    offsets = np.concatenate([line.offsets for line in lines.values()])
    in_training = offsets[np.repeat(np.array(splits) == "train", lengths)]
    mean, std = in_training.mean(0, dtype=np.float64), in_training.std(0, dtype=np.float64)
    if (std < MIN_STD).any():
        raise ValueError("the pen never moves along one of the axes; is this IAM-OnDB?")
    charset = sorted(set("".join(texts)))
    counts = Counter("".join(text for text, split in zip(texts, splits, strict=True) if split == "train"))
    return Dataset(
        offsets=offsets,
        ends=np.concatenate([line.ends for line in lines.values()]),
        starts=np.cumsum([0, *lengths], dtype=np.int64),
        texts=np.array(texts, dtype=np.str_),
        names=np.array([*lines]),
        splits=np.array(splits),
        charset=np.array(charset, dtype="U1"),
        char_counts=np.array([counts[character] for character in charset], dtype=np.int64),
        mean=mean,
        std=std,
        has_rests=np.array(has_rests),
    )
