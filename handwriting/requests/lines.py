"""Lines below each other: of texts, at random, or a sheet of the hands that there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from handwriting.alphabet import Prepared
from handwriting.ink.formats import Ink, stack_lines
from handwriting.limits import LINE_BIAS, PAGE_BIAS, check_numbers
from handwriting.requests.request import OF_HANDS, Request, Sheets

if TYPE_CHECKING:  # PyTorch takes a second to import
    from handwriting.sampling import Line
    from handwriting.writer import Writer


class Lines(Request):
    """Texts, each as a line, below each other."""

    subject, own_flags = "a line", f"text samples steps attention density {OF_HANDS}"
    usual_bias, usual_output = LINE_BIAS, "synthesis.png"
    hint = "; --page writes on pages"
    has_text = True

    def __init__(self, given: dict[str, Any]):
        super().__init__(given)
        self.samples, self.steps = given.get("samples", 1), given.get("steps")
        check_numbers(samples=self.samples, steps=self.steps)
        if self.has_text:
            self.given_texts, self.writer = self.texts(), self.make_writer()

    def prepare(self) -> list[Prepared]:
        """The texts as the network can write them, each as often as there are samples."""
        prepared, notes = self.writer.network.alphabet.prepare(self.given_texts)
        self.tell(notes, (text.text for text in prepared))
        return [text for text in prepared for _ in range(self.samples)]

    def write(self, prepared: list[Prepared]) -> list[tuple[Ink, Line]]:
        """Each line as ink, and as the sampler wrote it."""
        seeds = range(self.seed, self.seed + len(prepared))
        lines = self.writer.write_raw(prepared, seeds, self.steps, "density" in self.given)
        made = zip(lines, prepared, seeds, strict=True)
        return [(self.writer.to_ink(line, text, seed), line) for line, text, seed in made]

    def place(self, written: list[tuple[Ink, Line]]) -> Sheets:
        """The lines below each other, and pictures of the first."""
        from handwriting.figures import attention_figure, density_figure
        from handwriting.writer import load_network

        inks, (first, *_) = zip(*written, strict=True)
        figures = {"attention": attention_figure(first)} if "attention" in self.given else {}
        if "density" in self.given:
            network = load_network(self.checkpoint, "synthesis" if first.text else "rand_write")
            figures["density"] = density_figure(network.model, first, self.bias)
        return Sheets([stack_lines(inks)], figures)


class Random(Lines):
    """Lines at random, below each other."""

    subject, own_flags, hint = "--task rand_write", "samples steps density", ""
    usual_bias, usual_output = 0.0, "rand_write.png"
    has_text = False

    def prepare(self) -> Any:
        """A seed for each line."""
        return range(self.seed, self.seed + self.samples)

    def write(self, seeds: Any) -> list[tuple[Ink, Line]]:
        """Each line as ink, and as the sampler wrote it."""
        from handwriting.writer import generate_unconditionally

        given = {"bias": self.bias, "seed": self.seed, "checkpoint": self.checkpoint, "device": self.device}
        given |= {"retries": self.retries, "with_outputs": "density" in self.given} | self.pick("samples", "steps")
        lines = generate_unconditionally(**given)
        made = zip(lines, seeds, strict=True)
        return [(Ink(line.points, seed=seed, bias=self.bias, fault=line.fault), line) for line, seed in made]


class Styles(Request):
    """A sheet of the hands that there are: each writes its name."""

    subject, own_flags = "--list_styles", "list_styles"
    usual_bias, usual_output, line_name = PAGE_BIAS, "styles.png", "{ink.style}"

    def prepare(self) -> list[tuple[Writer, Prepared]]:
        """A writer for each hand, with what it is to write."""
        from handwriting.hands import list_styles
        from handwriting.writer import Writer

        given = {name: getattr(self, name) for name in ("checkpoint", "bias", "seed", "retries", "device")}
        writers = [Writer(style=name, **given) for name in list_styles()]
        return [(each, each.prepare(f"{each.style}: the quick brown fox jumps over 12 dogs")) for each in writers]

    def write(self, prepared: list[tuple[Writer, Prepared]]) -> list[Ink]:
        """The lines, one in each hand."""
        return [writer.write_lines([text], [self.seed])[0] for writer, text in prepared]

    def place(self, inks: list[Ink]) -> Sheets:
        """The lines below each other."""
        return Sheets([stack_lines(inks)])
