"""Each line of a text in a file of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from handwriting.alphabet import read_texts
from handwriting.bulk import LABELS, LEFT_OUT, MANIFEST, Form, ManifestRow, Plan, make_plans, write_all
from handwriting.ink.formats import FORMATS
from handwriting.program import InputError, ResultError, check_range, check_writable, escaped, progress_bar
from handwriting.requests.request import Request, list_faults, tell_faults


class Batch(Request):
    """Each line of a text in a file of its own, with a manifest; what is written already is skipped."""

    subject = "--batch"
    own_flags = "batch format style strength force recogniser labels height grey max_cer processes shard"
    usual_bias, usual_output = None, "batch"

    def __init__(self, given: dict[str, Any]):
        self.shard, self.processes = given.get("shard", (1, 1)), given.get("processes", 1)
        super().__init__(given)
        max_cer, labels = given.get("max_cer"), given.get("labels", "")
        check_range("max_cer", max_cer, 0, 1)
        if max_cer is not None and not self.retries:
            raise InputError("--max_cer is of lines that are read, and --retries 0 has none read; leave one out")
        if labels == "box" and self.format != "png":
            raise InputError(f"--labels box is for .png, not for .{self.format}")
        check_range("processes", self.processes, 1, 1000)
        self.form = Form(self.format, self.drawing, self.plotter, labels, max_cer)
        self.writer, self.lines = self.make_writer(), read_texts(given["batch"])

    def check_output(self) -> str:
        """The format of the files. Raises InputError for one, or a folder, that cannot be written."""
        self.format = self.given.get("format", "png")
        if self.format not in FORMATS:
            raise InputError(f"--format {self.format}: cannot be written; give {', '.join(FORMATS)}")
        if "shard" in self.given:
            self.output /= "{}-of-{}".format(*self.shard)
        if self.output.exists() and not self.output.is_dir():
            raise InputError(f"{self.output}: is no folder; name one for the files of --batch")
        check_writable(self.output / MANIFEST)
        source, own = self.given["batch"].resolve(), (MANIFEST, *LABELS.values())
        if source.parent == self.output.resolve() and (source.name in own or source.name[:6].isdigit()):
            raise InputError(f"{self.given['batch']}: could be written over; name another folder for --output")
        return self.format

    def prepare(self) -> list[Plan]:
        """How each text is to be written."""
        style, network = self.writer.style or None, self.writer.network
        plans, notes = make_plans(self.lines, network, self.seed, style, self.bias, self.shard)
        self.tell(notes, [])
        return plans

    def write(self, plans: list[Plan]) -> Iterator[ManifestRow]:
        """The rows of the manifest, as texts are written, each alone on its page and saved at once."""
        return write_all(plans, self.writer, self.output, self.form, self.processes)

    def place(self, rows: Iterator[ManifestRow]) -> Iterator[ManifestRow]:
        """The rows: all is in its place already."""
        return rows

    def save(self, sheets: Iterator[ManifestRow]) -> None:
        """Have all of it done, and tell which lines could not be written and which are wrong."""
        rows = sorted(progress_bar(sheets, unit=" lines"), key=lambda row: row["number"])
        left_out = sum(row["fault"].startswith(LEFT_OUT) for row in rows)
        rows = [row for row in rows if not row["fault"].startswith(LEFT_OUT)]
        missing = {f"line {row['number']}": row["fault"] for row in rows if not row["file"]}
        faults = {f"line {row['number']}": row["fault"] for row in rows if row["file"]}
        manifest, told = self.output / MANIFEST, f", {left_out} left out by --max_cer" if left_out else ""
        print(f"wrote {escaped(manifest)}: {len(faults)} lines{told}, and {len(missing)} could not be written")
        if missing:
            problems = f"not written: {list_faults(missing)}", list_faults(faults, self.retries)
            raise ResultError(f"{'; '.join(filter(None, problems))}; {manifest} has all of them")
        tell_faults(faults, self.retries)
