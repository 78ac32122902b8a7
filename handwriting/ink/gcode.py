"""G-code for pen plotters: straight moves in millimetres, and a pen that a servo or a motor lifts.

Two firmwares: GRBL 1.1 (https://github.com/gnea/grbl) and Marlin 2 (https://marlinfw.org/meta/gcode/). GRBL waits for
its moves before M3 and G4, and drives G0 at a speed of its own; at M2 it would stop the spindle, which here is the
servo. Marlin waits for its moves before M400 and G4 alone, not before M280, and knows no M2.
"""

import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from handwriting.ink.geometry import simplify, smooth
from handwriting.ink.pictures import Drawing, Sheet
from handwriting.program import InputError, check_range


class Machine(NamedTuple):
    """A firmware and what lifts the pen."""

    start: tuple[str, ...]  # mm, absolute positions, and for GRBL mm a minute
    to_place: tuple[str, ...]  # lines that bring the pen to a place; without a pause those with G4 are left out
    travel: str  # what follows the position in a move with the pen up
    up: float  # usual places: an S of M3, degrees of a servo, or mm of Z
    down: float
    least: float  # places that it can take
    most: float


# A third axis goes by G1, whose speed is ours.
TO_Z = ("G1 Z{place} F{feed_z}",)
MACHINES = {
    "grbl-servo": Machine(("G21", "G90", "G94"), ("M3 S{place}", "G4 P{seconds}"), "", 60, 30, 0, 10_000),
    "grbl-z": Machine(("G21", "G90", "G94"), TO_Z, "", 5, 0, -100, 100),
    "marlin-servo": Machine(
        ("G21", "G90"), ("M400", "M280 P0 S{place}", "G4 P{milliseconds}"), " F{travel}", 60, 30, 0, 180
    ),
    "marlin-z": Machine(("G21", "G90"), TO_Z, " F{travel}", 5, 0, -100, 100),
}
# Where (0, 0) is, as a share of the page from its top left corner, and whether y grows up (-1) or down (1).
ORIGINS = {
    "bottom left": (0.0, 1.0, -1), "bottom right": (1.0, 1.0, -1), "centre": (0.5, 0.5, -1),
    "top left": (0.0, 0.0, 1), "top right": (1.0, 0.0, 1),
}  # fmt: skip
FLATNESS = 0.02  # mm that straight moves are off a smooth curve
REACH = 0.01  # mm that ink may be beyond a page or a bed: rounding
COMMENT = 70  # characters of a comment: GRBL takes lines of 80
TEST_MARKS, TEST_SIZE = 9, (50.0, 40.0)  # lines that `pen_test_bytes` draws, and the mm that they take
NOT_SAID = re.compile(r"[^A-Za-z0-9 .,:'/+-]")  # GRBL obeys ?, ! and ~ even in a comment


@dataclass(frozen=True)
class Plotter:
    """What a machine takes. Raises InputError for values that cannot be used."""

    machine: str = "grbl-servo"  # one of MACHINES
    up: float | None = None  # where the pen is up: an S of M3, degrees of a servo, or mm of Z; None: as in MACHINES
    down: float | None = None
    feed: float = 2000.0  # mm a minute, with the pen down
    travel: float = 5000.0  # mm a minute, with the pen up; GRBL has its own ($110)
    feed_z: float = 600.0  # mm a minute, of a third axis
    pause: float = 0.15  # s, for a servo to get there
    origin: str = "bottom left"  # of the page, one of ORIGINS
    bed: tuple[float, float] | None = None  # mm: what the machine reaches, from the corner or centre of `origin`

    def __post_init__(self) -> None:
        for name, choices in (("machine", MACHINES), ("origin", ORIGINS)):
            if getattr(self, name) not in choices:
                raise InputError(f"there is no {name} {getattr(self, name)!r}; choose one of {', '.join(choices)}")
        machine = MACHINES[self.machine]
        for name in ("up", "down"):
            check_range(f"{self.machine}: where the pen is {name}", getattr(self, name), machine.least, machine.most)
        for name, label in (("feed", "feed"), ("travel", "travel"), ("feed_z", "feed of Z")):
            check_range(label, getattr(self, name), 1, 100_000, " mm a minute")
        check_range("pause", self.pause, 0, 10, " s")
        for side in self.bed or ():
            check_range("bed", side, 1, 10_000, " mm")
        if len({plain(place) for place in self.places}) < 2:
            raise InputError(f"{self.machine}: the pen is up and down at {self.places[0]:g}; give it two places")

    @property
    def places(self) -> tuple[float, float]:
        """Where the pen is up and down."""
        usual = MACHINES[self.machine]
        return usual.up if self.up is None else self.up, usual.down if self.down is None else self.down

    def zero(self, width: float, height: float) -> np.ndarray:
        """Where (0, 0) is on a page, (2,) in mm from its top left corner."""
        return np.array(ORIGINS[self.origin][:2]) * [width, height]

    def to_machine(self, places: np.ndarray, width: float, height: float) -> np.ndarray:
        """Places (n, 2) in mm from the top left corner of a page, as the machine has them."""
        return (places - self.zero(width, height)) * [1, ORIGINS[self.origin][2]] + 0.0

    def pen_to(self, place: float) -> list[str]:
        """The lines that bring the pen to a place."""
        values = {"place": place, "feed_z": self.feed_z, "seconds": self.pause, "milliseconds": 1000 * self.pause}
        texts = {name: plain(value) for name, value in values.items()}
        lines = MACHINES[self.machine].to_place
        return [line.format(**texts) for line in lines if self.pause or not line.startswith("G4")]

    def check_reach(self, corners: np.ndarray, width: float, height: float) -> None:
        """Raise InputError if what is between `corners` (n, 2), mm on a page, is beyond the page or the bed."""
        share, page = np.array(ORIGINS[self.origin][:2]), np.array([width, height])
        bed = np.array(self.bed or page)
        for name, size, remedy in (("page", page, "larger page"), ("bed", bed, "larger bed, a smaller page")):
            low = share * (page - size)
            over = max((low - corners.min(0)).max(), (corners.max(0) - low - size).max())
            if over > REACH:
                raise InputError(f"the ink goes {over:.1f} mm beyond the {name}; give a {remedy} or larger margins")


def plain(number: float) -> str:
    """A number with at most three decimals, and without an exponent or zeros at its end."""
    text = f"{number:.3f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def comment(text: str) -> str:
    """A line that machines skip, in letters that no firmware obeys."""
    letters = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return f"; {NOT_SAID.sub(' ', letters)}"[:COMMENT].rstrip()


def gcode_bytes(sheet: Sheet, plotter: Plotter, drawing: Drawing | None = None) -> bytes:
    """A program that draws a sheet in the order of writing and ends at the origin, the pen up.

    Its comments tell what it draws, how long that takes, and where each line of text begins. Raises InputError if ink
    is beyond the page or the bed.
    """
    is_smooth, groups = drawing is not None and drawing.smooth, []
    for title, strokes in sheet.groups:
        flat = [simplify(smooth(stroke, 8), FLATNESS) if is_smooth else stroke for stroke in strokes]
        plotter.check_reach(np.concatenate(flat), sheet.width, sheet.height)
        groups.append((title, [plotter.to_machine(stroke, sheet.width, sheet.height) for stroke in flat]))
    drawn = [stroke for _, strokes in groups for stroke in strokes]
    lift, lower = (plotter.pen_to(place) for place in plotter.places)
    home = f"G0 X0 Y0{MACHINES[plotter.machine].travel.format(travel=plain(plotter.travel))}"
    lines = [*header(sheet, plotter, drawn), *MACHINES[plotter.machine].start, *lift]
    for title, strokes in groups:
        lines.append(comment(title or "lines on the paper"))
        for stroke in strokes:
            first, second, *others = (f"X{x:.3f} Y{y:.3f}" for x, y in stroke.tolist())
            lines += [home.replace("X0 Y0", first), *lower, f"G1 {second} F{plain(plotter.feed)}"]
            lines += [*(f"G1 {place}" for place in others), *lift]
    return "\n".join([*lines, home, ""]).encode("ascii")


def header(sheet: Sheet, plotter: Plotter, strokes: list[np.ndarray]) -> Iterator[str]:
    """Comments on a program that draws strokes (n, 2), mm from the machine's zero."""
    title = next((title for title, _ in sheet.groups if title), "")
    drawn = sum(np.hypot(*np.diff(stroke, axis=0).T).sum() for stroke in strokes)
    travel = sum(np.hypot(*(end - begin)) for begin, end in travel_moves(strokes, np.zeros(2)))
    up, down = plotter.places
    lift = abs(up - down) / plotter.feed_z if plotter.machine.endswith("z") else plotter.pause / 60
    minutes = drawn / plotter.feed + travel / plotter.travel + 2 * len(strokes) * lift
    yield comment(title)
    size = f"page {plain(sheet.width)} x {plain(sheet.height)} mm"
    yield comment(f"{plotter.machine}, {size}, zero at its {plotter.origin}")
    yield comment(f"{drawn:.0f} mm drawn in {len(strokes)} strokes, {travel:.0f} mm of travel")
    yield comment(f"about {math.ceil(minutes)} min, without speeding up and slowing down")


def travel_moves(strokes: list[np.ndarray], zero: np.ndarray) -> list[np.ndarray]:
    """The moves (2, 2) with the pen up that draw strokes (n, 2): from zero to the first, to each other, and back."""
    ends = [zero, *(place for stroke in strokes for place in stroke[[0, -1]]), zero]
    return list(np.reshape(ends, (-1, 2, 2)))


def pen_test_bytes(plotter: Plotter) -> bytes:
    """A program that draws lines with the pen ever lower, to find out where it is up and down.

    The first and shortest line, 10 mm, is where the pen is up, the last one where it is down; each is 5 mm longer and
    5 mm above the one before. Raises InputError for a bed that is smaller than all of them.
    """
    (up, down), height = plotter.places, TEST_SIZE[1]
    plotter.check_reach(np.array([[0, 0], TEST_SIZE]), *TEST_SIZE)
    travel = MACHINES[plotter.machine].travel.format(travel=plain(plotter.travel))
    lines = [comment("pen test: ever longer lines, with the pen ever lower"), *MACHINES[plotter.machine].start]
    for n, place in enumerate(np.linspace(up, down, TEST_MARKS).tolist()):
        ends = plotter.to_machine(np.array([[0, height - 5 * n], [10 + 5 * n, height - 5 * n]]), *TEST_SIZE)
        first, last = (f"X{plain(x)} Y{plain(y)}" for x, y in ends.tolist())
        lines += [*plotter.pen_to(up), f"G0 {first}{travel}"]
        lines += [comment(f"line of {10 + 5 * n} mm: pen at {plain(place)}"), *plotter.pen_to(place)]
        lines.append(f"G1 {last} F{plain(plotter.feed)}")
    return "\n".join([*lines, *plotter.pen_to(up), f"G0 X0 Y0{travel}", ""]).encode("ascii")
