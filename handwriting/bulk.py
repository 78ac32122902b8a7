"""Many texts, each written into a file of its own: hands and biases are drawn from the seed, and a manifest tells all.

The manifest has a line of JSON for each text that is done. A run that was stopped goes on where it was.
"""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from handwriting.ink.formats import Ink
from handwriting.ink.gcode import Plotter
from handwriting.ink.pictures import Drawing
from handwriting.program import InputError, atomic_write
from handwriting.writer import (
    RETRIES,
    USUAL_BIAS,
    WRITE_BATCH,
    Writer,
    derived_seed,
    known_styles,
    load_writer,
    prepare_line,
)

MANIFEST = "manifest.jsonl"
BIASES = (0.3, 1.0)  # between which a line's bias is drawn

Row = dict[str, Any]  # of the manifest, with these names:
COLUMNS = ("number", "file", "text", "written", "seed", "bias", "style", "checkpoint", "fault")


class Plan(NamedTuple):
    """How a text is to be written."""

    number: int  # from 1: its line in the file of texts
    text: str
    seed: int
    style: str | None
    bias: float


def make_plans(texts: Sequence[str], seed: int, styles: list[str | None], bias: float | None) -> list[Plan]:
    """A plan for each text that is not blank. Style and, if it is None, bias are drawn by the seed and the number."""
    plans = []
    for number, text in enumerate(texts, 1):
        random = np.random.default_rng([seed, number])
        name, drawn = styles[random.integers(len(styles))], round(float(random.uniform(*BIASES)), 4)
        if text.strip():
            plans.append(Plan(number, text, derived_seed(seed, number), name, drawn if bias is None else bias))
    return plans


def read_manifest(folder: Path) -> list[Row]:
    """The rows of a folder's manifest; none without one. Raises InputError for one that is not a batch's."""
    path = folder / MANIFEST
    if not path.exists():
        return []
    try:
        *lines, _ = path.read_bytes().split(b"\n")  # the last is empty, or was cut off when a run was stopped
        rows = [{name: row[name] for name in COLUMNS} for row in map(json.loads, lines)]
        for row in rows:
            row_line(row).encode()  # half a character cannot be written again
            if type(row["number"]) is not int or not isinstance(row["fault"], str):
                raise ValueError("a row without its number or its fault")
        return rows
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{path}: not the manifest of a batch; name another folder, or remove it") from None


def done_rows(folder: Path, plans: list[Plan], ending: str, checkpoint: str) -> list[Row]:
    """The rows of what is written already. Raises InputError if it was by other plans or another checkpoint (hash)."""
    planned = {plan.number: plan for plan in plans}
    done = []
    for row in read_manifest(folder):
        plan = planned.get(row["number"])
        is_same = plan and plan._asdict() == {name: row[name] for name in Plan._fields}
        if not (
            plan and is_same and row["file"] in (None, file_name(plan, ending)) and row["checkpoint"] == checkpoint
        ):
            raise InputError(
                f"{folder}: holds a batch of other texts, or written in another way (seed, bias, style, format, "
                "checkpoint); name another folder, or remove it"
            )
        if row["file"] is None or (folder / row["file"]).is_file():
            done.append(row)
    return done


def write_many(
    texts: Sequence[str], folder: Path, ending: str, seed: int = 0, style: str | None = None,
    bias: float | None = None, checkpoint: Path | None = None, retries: int = RETRIES, drawing: Drawing | None = None,
    plotter: Plotter | None = None,
) -> Iterator[Row]:  # fmt: skip
    """Write texts, each into a file of `folder`. Yields a row of the manifest for each: first for those done before.

    `style` and `bias` None: each line has its own, drawn from the seed. Blank texts are left out. A text that cannot be
    written gets a row with the reason in `fault` and no file. Raises InputError for a folder that holds other texts'
    files, and before anything is written for a style, checkpoint or number that cannot be used.
    """
    network = load_writer(checkpoint, "synthesis")
    styles: list[str | None] = [*known_styles(network.alphabet)] or [None] if style is None else [style]
    plans = make_plans(texts, seed, styles, bias)
    done = done_rows(folder, plans, ending, network.hash)
    numbers = {row["number"] for row in done}
    waiting = [plan for plan in plans if plan.number not in numbers]
    usual = USUAL_BIAS if bias is None else bias
    writers = {name: Writer(checkpoint, name, usual, seed, retries) for name in dict.fromkeys(p.style for p in waiting)}
    with atomic_write(folder / MANIFEST) as file:  # without what a stopped run left of a row, and files that are gone
        file.write("".join(row_line(row) for row in done).encode())
    yield from done
    with (folder / MANIFEST).open("a", encoding="utf-8") as manifest:
        for style_name, writer in writers.items():
            for chunk in even_chunks([plan for plan in waiting if plan.style == style_name]):
                for row in write_chunk(chunk, writer, folder, ending, drawing, plotter):
                    manifest.write(row_line(row))
                    manifest.flush()
                    yield row


def even_chunks(plans: list[Plan]) -> Iterator[list[Plan]]:
    """Plans in chunks of like size, at most `WRITE_BATCH`: the more lines at once, the less time each takes."""
    size = math.ceil(len(plans) / math.ceil(len(plans) / WRITE_BATCH))
    for start in range(0, len(plans), size):
        yield plans[start : start + size]


def write_chunk(
    plans: list[Plan], writer: Writer, folder: Path, ending: str, drawing: Drawing | None, plotter: Plotter | None
) -> Iterator[Row]:
    """Write lines of one style side by side."""
    good = []
    for plan in plans:
        try:
            prepare_line(writer.network.alphabet, plan.text)
            good.append(plan)
        except InputError as error:
            yield manifest_row(plan, writer, fault=str(error))
    texts, seeds, biases = ([getattr(plan, name) for plan in good] for name in ("text", "seed", "bias"))
    for plan, line in zip(good, writer.write_raw(texts, seeds, biases=biases), strict=True):
        try:
            ink = writer.to_ink(line, plan.seed, plan.bias, plan.text)
            ink.save(folder / file_name(plan, ending), drawing, plotter)
            yield manifest_row(plan, writer, file_name(plan, ending), ink)
        except InputError as error:  # no ink, or more than the format can hold
            yield manifest_row(plan, writer, fault=str(error))


def file_name(plan: Plan, ending: str) -> str:
    """The name of the file of a text."""
    return f"{plan.number:06}.{ending}"


def manifest_row(plan: Plan, writer: Writer, file: str | None = None, ink: Ink | None = None, fault: str = "") -> Row:
    """What the manifest tells of a text: with its ink, or with the reason why there is none."""
    written, fault = (ink.text, ink.fault) if ink else (None, fault)
    row = plan._asdict() | {"file": file, "written": written, "checkpoint": writer.network.hash, "fault": fault}
    return {name: row[name] for name in COLUMNS}


def row_line(row: Row) -> str:
    """A row as a line of JSON."""
    return json.dumps(row, ensure_ascii=False) + "\n"
