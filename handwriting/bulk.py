"""Many texts, each written into a file of its own, and a manifest with a line of JSON for each that is done."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from handwriting.alphabet import Prepared
from handwriting.ink.formats import Ink
from handwriting.ink.gcode import Plotter
from handwriting.ink.pictures import Drawing
from handwriting.program import InputError, atomic_write
from handwriting.seeds import derived_seed
from handwriting.writer import WRITE_BATCH, Network, Writer

MANIFEST = "manifest.jsonl"
BIASES = (0.3, 1.0)  # between which a line's bias is chosen

ManifestRow = dict[str, Any]  # with these names:
COLUMNS = ("number", "file", "text", "written", "seed", "bias", "style", "checkpoint", "fault")
FOUND = ("read", "wrong", "distance")  # and of each line what `sampling.Line` has under these names


class Plan(NamedTuple):
    """How a text is to be written."""

    number: int  # from 1: its line in the file of texts
    text: str
    seed: int
    style: str | None
    bias: float
    prepared: Prepared | None  # None if the text cannot be written
    fault: str = ""  # why not

    def file_name(self, ending: str) -> str:
        """The name of the text's file."""
        return f"{self.number:06}.{ending}"


def make_plans(
    texts: Sequence[str], network: Network, seed: int = 0, style: str | None = None, bias: float | None = None
) -> tuple[list[Plan], list[str]]:
    """A plan for each text that is not blank, and a note for each character that is not written as it is.

    Without a `style` each line is in a hand that follows from its seed. `bias` None: each has its own, chosen by the
    seed and its number.
    """
    plans, notes = [], []
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        random = np.random.default_rng(derived_seed("bias", seed, number))
        chosen = round(float(random.uniform(*BIASES)), 4)
        prepared, fault = None, ""
        try:
            (prepared,), told = network.alphabet.prepare([text])
            notes += told
        except InputError as error:
            fault = str(error)
        own = derived_seed("line of a batch", seed, number), style, chosen if bias is None else bias
        plans.append(Plan(number, text, *own, prepared, fault))
    return plans, list(dict.fromkeys(notes))


def row_line(row: ManifestRow) -> bytes:
    """A row as a line of JSON."""
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def read_manifest(folder: Path) -> list[ManifestRow]:
    """The rows of a folder's manifest; none without one. Raises InputError for one that is not a batch's."""
    path = folder / MANIFEST
    if not path.exists():
        return []
    try:
        *lines, _ = path.read_bytes().split(b"\n")  # the last is empty, or was cut off when a batch was stopped
        rows = [{name: row[name] for name in COLUMNS + FOUND} for row in map(json.loads, lines)]
        for row in rows:
            row_line(row)  # half a character cannot be written again
            if type(row["number"]) is not int or not isinstance(row["fault"], str):
                raise ValueError("a row without its number or its fault")
        return rows
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{path}: not the manifest of a batch; name another folder, or remove it") from None


def done_rows(
    folder: Path, plans: Sequence[Plan], ending: str, checkpoint: str
) -> tuple[list[ManifestRow], list[Plan]]:
    """The rows of what is written already, and the plans of the rest. Raises InputError for another batch's rows."""
    planned, done = {plan.number: plan for plan in plans}, []
    for row in read_manifest(folder):
        plan = planned.get(row["number"])
        is_same = all(getattr(plan, name, None) == row[name] for name in ("text", "seed", "style", "bias"))
        if not (plan and is_same and row["file"] in (None, plan.file_name(ending)) and row["checkpoint"] == checkpoint):
            raise InputError(
                f"{folder}: holds a batch of other texts, or written in another way (seed, bias, style, format, "
                "checkpoint); name another folder, or remove it"
            )
        if row["file"] is None or (folder / row["file"]).is_file():
            done.append(row)
            del planned[row["number"]]
    return done, list(planned.values())


def write_inks(plans: Sequence[Plan], writer: Writer) -> Iterator[tuple[Plan, Ink | None, ManifestRow]]:
    """Write the texts of plans, many side by side. Yields each plan with its ink, or None, and what its row gets."""
    for plan in plans:
        if plan.prepared is None:
            yield plan, None, dict.fromkeys(FOUND) | {"fault": plan.fault}
    own = [plan for plan in plans if plan.prepared]
    # Parts of like size, at most `WRITE_BATCH`: the more lines at once, the less time each takes.
    for part in np.array_split(np.arange(len(own)), max(1, math.ceil(len(own) / WRITE_BATCH))):
        chosen = [own[n] for n in part]
        texts, seeds, biases = ([getattr(plan, name) for plan in chosen] for name in ("prepared", "seed", "bias"))
        for plan, line in zip(chosen, writer.write_raw(texts, seeds, biases=biases), strict=True):
            found = {name: getattr(line, name) for name in FOUND}
            try:
                yield plan, writer.to_ink(line, plan.prepared, plan.seed, plan.bias), found | {"fault": line.fault}
            except InputError as error:  # no ink
                yield plan, None, found | {"fault": str(error)}


def save_inks(
    inks: Iterable[tuple[Plan, Ink | None, ManifestRow]], folder: Path, ending: str, checkpoint: str,
    done: Sequence[ManifestRow] = (), drawing: Drawing | None = None, plotter: Plotter | None = None,
) -> Iterator[ManifestRow]:  # fmt: skip
    """Save what `write_inks` yields, each in a file of `folder`. Yields rows of the manifest, the done ones first."""
    with atomic_write(folder / MANIFEST) as file:  # without what a stopped batch left of a row, and files that are gone
        file.write(b"".join(map(row_line, done)))
    yield from done
    with (folder / MANIFEST).open("ab") as manifest:
        for plan, ink, found in inks:
            file_name = None
            if ink:
                try:
                    ink.save(folder / plan.file_name(ending), drawing, plotter)
                    file_name = plan.file_name(ending)
                except InputError as error:  # more than the format can hold
                    ink, found = None, found | {"fault": str(error)}
            row = plan._asdict() | found | {"file": file_name, "written": ink and ink.text, "checkpoint": checkpoint}
            row = {name: row[name] for name in COLUMNS + FOUND}
            manifest.write(row_line(row))
            manifest.flush()
            yield row
