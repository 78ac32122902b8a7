"""Many texts, each written into a file of its own: hands and biases are drawn from the seed, and a manifest tells all.

The manifest has a line of JSON for each text that is done. A run that was stopped goes on where it was.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ink.formats import Ink
from utils import InputError
from writer import WRITE_BATCH, Writer, derived_seed, list_styles

MANIFEST = "manifest.jsonl"
BIASES = (0.3, 1.0)  # between which a line's bias is drawn


def done_lines(folder: Path) -> dict[int, dict[str, Any]]:
    """The manifest's rows by number, those whose file is there and, at a stopped run's end, whole."""
    rows = {}
    path = folder / MANIFEST
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
            if row["file"] is None or (folder / row["file"]).is_file():
                rows[int(row["number"])] = row
        except (ValueError, KeyError, TypeError):
            continue
    return rows


def write_many(
    texts: list[str], folder: Path, ending: str, seed: int, style: str | None, bias: float | None,
    checkpoint: Path | None, retries: int,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Write texts, each into a file of `folder`. Yields a row of the manifest for each: also for one done before.

    `style` and `bias` None: each line has its own, drawn from the seed. A text that cannot be written gets a row with
    the reason in `fault` and no file. Raises InputError for a folder that holds other texts' files.
    """
    done = done_lines(folder)
    for number, row in done.items():
        if number > len(texts) or row["text"] != texts[number - 1]:
            raise InputError(f"{folder}: holds a batch of other texts; name another folder, or remove it")
        yield row
    names = [style] if style else [*list_styles()] or [None]
    writers = {name: Writer(checkpoint, name, 0.75 if bias is None else bias, seed, retries) for name in names}
    plans = []  # (number, text, seed, style, bias)
    for number, text in enumerate(texts, 1):
        if number not in done:
            random = np.random.default_rng([seed, number])
            name, drawn = names[random.integers(len(names))], float(random.uniform(*BIASES))
            plans.append((number, text, derived_seed(seed, number), name, drawn if bias is None else bias))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / MANIFEST).open("a", encoding="utf-8") as manifest:
        for start in range(0, len(plans), WRITE_BATCH):
            for row in write_chunk(plans[start : start + WRITE_BATCH], writers, folder, ending):
                manifest.write(json.dumps(row, ensure_ascii=False) + "\n")
                manifest.flush()
                yield row


def write_chunk(
    plans: list[tuple], writers: dict[str | None, Writer], folder: Path, ending: str
) -> Iterator[dict[str, Any]]:
    """Write the lines of some plans, those of a style side by side."""
    good = []
    for plan in plans:
        try:
            next(iter(writers.values())).network.alphabet.prepare(plan[1])
            good.append(plan)
        except InputError as error:
            yield manifest_row(plan, None, None, str(error))
    for style, writer in writers.items():
        chosen = [plan for plan in good if plan[3] == style]
        inks = writer.write_lines(
            [plan[1] for plan in chosen], [plan[2] for plan in chosen], biases=[plan[4] for plan in chosen]
        )
        for plan, ink in zip(chosen, inks, strict=True):
            name = f"{plan[0]:06}.{ending}"
            ink.save(folder / name)
            yield manifest_row(plan, ink, name, ink.fault)


def manifest_row(plan: tuple, ink: Ink | None, name: str | None, fault: str) -> dict[str, Any]:
    """What the manifest tells of a line."""
    number, text, seed, style, bias = plan
    return {
        "number": number, "file": name, "text": text, "written": ink.text if ink else None, "seed": seed,
        "bias": round(bias, 4), "style": style, "checkpoint": ink.checkpoint if ink else None, "fault": fault,
    }  # fmt: skip
