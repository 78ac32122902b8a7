"""A text of any length on pages."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from handwriting.alphabet import read_text
from handwriting.ink.formats import Page
from handwriting.ink.pictures import check_pixels
from handwriting.limits import PAGE_BIAS
from handwriting.pages import PageFormat, WrittenText, lay_out, parse_page
from handwriting.program import InputError, note
from handwriting.requests.request import OF_HANDS, Request, Sheets

if TYPE_CHECKING:  # matplotlib takes a second to import
    from matplotlib.figure import Figure


class Pages(Request):
    """A text of any length on pages."""

    subject = "a page"
    own_flags = (
        "text file page landscape margins x_height line_spacing align vertical fit ruled plot_rules jitter redo proof "
        f"from_line {OF_HANDS}"
    )
    usual_bias, usual_output = PAGE_BIAS, "synthesis.png"
    line_name, redo = "line {n} {ink.text!r}", "--redo {}, "

    def __init__(self, given: dict[str, Any]):
        super().__init__(given)
        width, height = parse_page(given.get("page", "A4"), "landscape" in given)
        shape = self.pick("margins", "x_height", "line_spacing", "align", "vertical", "fit", "ruled", "jitter")
        self.page_format = PageFormat(width, height, **shape, **self.pick(plots_rules="plot_rules"))
        check_pixels(width, height, self.drawing.resolution(height, self.output.suffix.lower()[1:]))
        top, right, bottom, left = self.page_format.margins
        self.plotter.check_reach(np.array([[left, top], [width - right, height - bottom]]), width, height)
        if "text" in given and "file" in given:
            raise InputError("text and --file: give one of them")
        is_file = "file" in given or given.get("text") == ["-"]
        self.text = read_text(given.get("file", Path("-"))) if is_file else "\n".join(self.texts())
        self.writer = self.make_writer()

    def prepare(self) -> str:
        """The text with what the network lacks replaced."""
        text, notes = self.writer.network.alphabet.prepare_page(self.text)
        self.tell(notes, text.splitlines())
        return text

    def write(self, text: str) -> WrittenText:
        """The text in lines of ink that fit the page."""
        written = self.writer.write_text(text, self.page_format, self.given.get("redo"))
        for word in written.broken:
            note(f"broke {word!r} with a hyphen: it is wider than a line")
        return written

    def place(self, written: WrittenText) -> Sheets:
        """The lines on as many pages as they need."""
        pages, first = lay_out(written, written.page_format, self.seed), self.given.get("from_line", 1)
        if first > 1:
            numbers = count(1)
            pages = [replace(page, lines=[line for line in page.lines if next(numbers) >= first]) for page in pages]
            pages = [page for page in pages if page.lines]
            if not pages:
                raise InputError(f"--from_line {first}: the text has {next(numbers) - 1} lines; give a smaller number")
        return Sheets(pages, self.proof(pages, first) if "proof" in self.given else {})

    def proof(self, pages: list[Page], first: int) -> dict[str, Figure]:
        """Pages to be looked over, whose lines are numbered from `first`; tells how to write anew what is doubted."""
        from handwriting.figures import proof_figure

        numbers = np.cumsum([first] + [len(page.lines) for page in pages]).tolist()
        names = ["proof"] + [f"proof-{n}" for n in range(2, len(pages) + 1)]
        inks, before = [placed.ink for page in pages for placed in page.lines], self.given.get("redo", {})
        again = before | {n: before.get(n, 0) + 1 for n, ink in enumerate(inks, first) if ink.fault or ink.doubts}
        told = ",".join(f"{n}:{attempt}" if attempt > 1 else str(n) for n, attempt in sorted(again.items()))
        note(f"--redo {told} writes anew what may be wrong" if again != before else "no word is doubted")
        return {name: proof_figure(*each) for name, *each in zip(names, pages, numbers, strict=False)}
