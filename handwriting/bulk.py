"""Many texts, each written into a file of its own, and a manifest with a line of JSON for each that is done.

`write_all` shares them out in parts, to this process (`write_part`) or to several others (`serve`). Each row is added
to the manifest when its file is there, so that a batch that is stopped can go on; at the end rows are put in order.
"""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from handwriting.ink.formats import MARGIN, Page, stack_lines
from handwriting.ink.gcode import Plotter
from handwriting.ink.pictures import MM_PER_INCH, Drawing
from handwriting.program import InputError, atomic_write, folder_lock
from handwriting.seeds import derived_seed

if TYPE_CHECKING:  # PyTorch takes a second to import
    from handwriting.writer import Network, Writer

MANIFEST = "manifest.jsonl"
BIASES = (0.3, 1.0)  # between which a line's bias is chosen

LOST = "a process has ended before its time (killed, or out of memory); the same command goes on with the batch"
LEFT_OUT = "left out"  # how the fault of a line begins that is read wrong too often for `Form.max_cer`
CROPPED = 1.0  # mm of paper around the ink of pictures of one height
# What recognisers are trained from: a file beside each picture, or one for all.
LABELS = {"gt": "gt.txt", "box": "box", "metadata": "metadata.jsonl", "tsv": "labels.tsv"}

ManifestRow = dict[str, Any]  # with these names:
COLUMNS = ("number", "file", "text", "written", "seed", "bias", "style", "checkpoint", "settings", "fault")
FOUND = ("read", "wrong", "distance")  # and of each line what `sampling.Line` has under these names


class Plan(NamedTuple):
    """How a text is to be written."""

    number: int  # from 1: its line in the file of texts
    text: str
    seed: int
    style: str | None
    bias: float
    prepared: Any  # `Prepared`, None if the text cannot be written
    fault: str = ""  # why not

    def file_name(self, ending: str) -> str:
        """The name of the text's file."""
        return f"{self.number:06}.{ending}"


@dataclass(frozen=True)
class Form:
    """The form of a batch's files. `labels` is one of `LABELS`."""

    ending: str
    drawing: Drawing = field(default_factory=Drawing)
    plotter: Plotter | None = None
    labels: str = ""
    max_cer: float | None = None  # the share of a line's characters that may be read wrong; else it gets no file

    def leaves_out(self, wrong: float | None) -> bool:
        """Whether a line is left out, by the share of it that is read wrong; None if nobody has read it."""
        return self.max_cer is not None and wrong is not None and wrong > self.max_cer


def make_plans(
    texts: Sequence[str], network: Network, seed: int = 0, style: str | None = None, bias: float | None = None,
    shard: tuple[int, int] = (1, 1),
) -> tuple[list[Plan], list[str]]:  # fmt: skip
    """A plan for each text of a shard, K of N, that is not blank, and a note for each character not written as it is.

    Without a `style` each line is in a hand that follows from its seed. `bias` None: each has its own, chosen by the
    seed and its number.
    """
    plans, notes = [], []
    for number, text in [*enumerate(texts, 1)][shard[0] - 1 :: shard[1]]:
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


def settings_of(writer: Writer, form: Form) -> ManifestRow:
    """What shapes a batch's files beside its plans, for the manifest: the network, and a digest of all else."""
    shape = replace(form, labels="", plotter=form.plotter if form.ending == "gcode" else None)
    known = shape, writer.retries, writer.strength, writer.vector is not None and writer.vector.tobytes()
    return {"checkpoint": writer.network.hash, "settings": hashlib.sha256(repr(known).encode()).hexdigest()[:16]}


def done_rows(
    folder: Path, plans: Sequence[Plan], form: Form, settings: ManifestRow
) -> tuple[list[ManifestRow], list[Plan]]:
    """The rows of what is written already, and the plans of the rest. Raises InputError for another batch's rows."""
    planned, done = {plan.number: plan for plan in plans}, []
    for row in read_manifest(folder):
        plan = planned.get(row["number"])
        is_same = all(getattr(plan, name, None) == row[name] for name in ("text", "seed", "style", "bias"))
        is_same &= all(row[name] == value for name, value in settings.items())
        if not (plan and is_same and row["file"] in (None, plan.file_name(form.ending))):
            raise InputError(
                f"{folder}: holds a batch of other texts, or written in another way (network, hands, seed, format, "
                "any other flag); name another folder, or remove it"
            )
        names = [row["file"], *([plan.file_name(LABELS[form.labels])] if form.labels in ("gt", "box") else [])]
        if row["file"] is None or all((folder / name).is_file() for name in names):
            done.append(row)
            del planned[row["number"]]
    return done, list(planned.values())


def write_part(plans: Sequence[Plan], writer: Writer, folder: Path, form: Form) -> Iterator[ManifestRow]:
    """Write some texts side by side, each into a file of `folder`. Yields the row of each when its file is there."""
    texts, seeds, biases = ([getattr(plan, name) for plan in plans] for name in ("prepared", "seed", "bias"))
    unwritten = {"file": None, "written": None} | settings_of(writer, form)
    for plan, line in zip(plans, writer.write_raw(texts, seeds, biases=biases), strict=True):
        row = plan._asdict() | {name: getattr(line, name) for name in ("fault", *FOUND)} | unwritten
        row["distance"] = line.distance and round(line.distance, 4)
        try:
            if form.leaves_out(line.wrong):
                raise InputError(f"{LEFT_OUT}: it reads {line.read!r}")
            ink = writer.to_ink(line, plan.prepared, plan.seed, plan.bias)
            page = stack_lines([ink], CROPPED if form.drawing.height else MARGIN)
            page.save(folder / plan.file_name(form.ending), form.drawing, form.plotter)
            if form.labels in ("gt", "box"):
                with atomic_write(folder / plan.file_name(LABELS[form.labels])) as file:
                    file.write((f"{ink.text}\n" if form.labels == "gt" else list_boxes(page, form.drawing)).encode())
            row |= {"file": plan.file_name(form.ending), "written": ink.text}
        except InputError as error:  # no ink, or more than the format can hold
            row["fault"] = str(error)
        yield {name: row[name] for name in COLUMNS + FOUND}


def list_boxes(page: Page, drawing: Drawing) -> str:
    """The boxes of a line's characters in its picture, as Tesseract has them: pixels from the bottom left corner."""
    (ink, strokes), dots = page.lines[0], drawing.resolution(page.height) / MM_PER_INCH
    points, boxes, height = np.concatenate(strokes), "", int(page.height * dots + 1e-6)
    for place, character in enumerate(ink.text):
        if len(own := points[ink.characters == place]) and character != " ":
            left, top = np.floor((own.min(0) - drawing.pen_width / 2) * dots).astype(int).tolist()
            right, bottom = np.ceil((own.max(0) + drawing.pen_width / 2) * dots).astype(int).tolist()
            boxes += f"{character} {left} {height - bottom} {right} {height - top} 0\n"
    return boxes


def save_rows(folder: Path, rows: Sequence[ManifestRow]) -> None:
    """Write the manifest anew."""
    with atomic_write(folder / MANIFEST) as file:
        file.write(b"".join(map(row_line, rows)))


def save_labels(folder: Path, rows: Sequence[ManifestRow], labels: str) -> None:
    """Write the labels that are one file for all."""
    if labels in ("metadata", "tsv"):
        with atomic_write(folder / LABELS[labels]) as file:
            for name, text in [(row["file"], row["written"]) for row in rows if row["file"]]:
                of_tsv = f"{name}\t{text}\n".encode()
                file.write(of_tsv if labels == "tsv" else row_line({"file_name": name, "text": text}))


def serve(pipe: Connection, writer: Writer, folder: Path, form: Form) -> None:
    """In a process of its own: ask for parts by None until there is none, and send back rows, or an error."""
    import torch

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no half of a file is left
    torch.set_num_threads(1)
    try:
        pipe.send(None)
        while part := pipe.recv():
            for row in write_part(part, writer, folder, form):
                pipe.send(row)
            pipe.send(None)
    except (EOFError, ConnectionError):  # the first process has gone
        pass
    except (InputError, OSError) as error:
        pipe.send(error)


def write_parts(
    parts: Sequence[Sequence[Plan]], processes: int, writer: Writer, folder: Path, form: Form
) -> Iterator[ManifestRow]:
    """`write_part` for each of the parts, in this process or shared out to several others. Yields rows as they come."""
    if processes == 1:
        for part in parts:
            yield from write_part(part, writer, folder, form)
        return
    context, left, workers = multiprocessing.get_context("spawn"), iter(parts), {}
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # others inherit it: Ctrl-C is for this process
    try:
        for _ in range(processes):
            ours, theirs = context.Pipe()
            workers[ours] = context.Process(target=serve, args=(theirs, writer, folder, form), daemon=True)
            workers[ours].start()
            theirs.close()
    finally:
        signal.signal(signal.SIGINT, handler)
    try:
        busy: list[Any] = list(workers)
        while busy:
            pipe: Any
            for pipe in wait(busy):
                if isinstance(found := pipe.recv(), Exception):
                    raise found
                if found is not None:
                    yield found
                elif part := next(left, ()):
                    pipe.send(part)
                else:
                    busy.remove(pipe)
    except (EOFError, ConnectionError):
        raise InputError(LOST) from None
    finally:
        for worker in workers.values():
            worker.terminate()
            worker.join()


def write_all(
    plans: Sequence[Plan], writer: Writer, folder: Path, form: Form, processes: int = 1
) -> Iterator[ManifestRow]:
    """Write texts, each into a file of `folder`. Yields rows of the manifest, first those of what is done already.

    Raises InputError for a folder where another batch is, or is being written.
    """
    folder = folder.resolve()  # of new/../lines nothing is to be made but the last
    folder.mkdir(parents=True, exist_ok=True)
    with folder_lock(folder, "batch", "another batch", "wait for it, or name another folder"):
        rows, plans = done_rows(folder, plans, form, settings := settings_of(writer, form))
        of_all = dict.fromkeys(COLUMNS + FOUND) | settings
        told = [of_all | plan._asdict() for plan in plans if plan.prepared is None]
        rows += [{name: row[name] for name in COLUMNS + FOUND} for row in told]
        save_rows(folder, rows)  # without what a stopped batch left of a row, and files that are gone
        yield from rows
        own = [plan for plan in plans if plan.prepared]
        # Parts of like size, at most its `batch_size`, as many for each process: the more lines at once, the less time
        # each takes.
        count = max(1, math.ceil(len(own) / writer.network.batch_size / processes)) * processes
        parts = [[own[n] for n in part] for part in np.array_split(np.arange(len(own)), count) if len(part)]
        with (folder / MANIFEST).open("ab") as manifest:
            for row in write_parts(parts, min(processes, len(parts)), writer, folder, form) if parts else ():
                manifest.write(row_line(row))
                manifest.flush()
                rows.append(row)
                yield row
        rows.sort(key=lambda row: row["number"])
        save_rows(folder, rows)
        save_labels(folder, rows, form.labels)
