"""G-code for pen plotters: straight moves in millimetres, and a pen that a servo or a motor lifts."""

from dataclasses import dataclass

from handwriting.ink.pictures import Sheet
from handwriting.program import InputError, check_range

# What lifts the pen: its command, how it waits, and where it is when the pen is up and down. A servo is told by M280
# (Marlin) or as if it was a spindle by M3 (GRBL's builds for servos); a third motor by its height.
PENS = {
    "servo": ("M280 P0 S{place:g}", "G4 P{milliseconds:g}", 60.0, 30.0),  # degrees
    "spindle": ("M3 S{place:g}", "G4 P{seconds:g}", 60.0, 30.0),
    "z": ("G0 Z{place:g}", "", 5.0, 0.0),  # mm
}


@dataclass(frozen=True)
class Plotter:
    """What a machine takes. Raises InputError for values that cannot be used."""

    pen: str = "servo"  # one of PENS
    up: float | None = None  # degrees of a servo, a spindle's S, or mm of Z; None: as in PENS
    down: float | None = None
    feed: float = 2000.0  # mm a minute, with the pen down
    travel: float = 5000.0  # mm a minute, with the pen up
    pause: float = 0.15  # s, for a servo to get there
    origin: str = "bottom left"  # of the page, with y upwards; or "top left", with y downwards

    def __post_init__(self) -> None:
        for name, choices in (("pen", tuple(PENS)), ("origin", ("bottom left", "top left"))):
            if getattr(self, name) not in choices:
                raise InputError(f"there is no {name} {getattr(self, name)!r}; choose one of {', '.join(choices)}")
        check_range("feed", self.feed, 1, 100_000, " mm a minute")
        check_range("travel", self.travel, 1, 100_000, " mm a minute")
        check_range("pause", self.pause, 0, 10, " s")


def gcode_bytes(sheet: Sheet, plotter: Plotter) -> bytes:
    """A program that draws a sheet in the order of writing, in mm (G21, G90), and ends at the origin, the pen up."""
    move, wait, up, down = PENS[plotter.pen]
    places = up if plotter.up is None else plotter.up, down if plotter.down is None else plotter.down
    waiting = [wait.format(milliseconds=1000 * plotter.pause, seconds=plotter.pause)] if wait and plotter.pause else []
    lift, lower = ([move.format(place=place), *waiting] for place in places)
    lines = ["G21", "G90", *lift]
    for stroke in (stroke for _, strokes in sheet.groups for stroke in strokes):
        corners = stroke if plotter.origin == "top left" else stroke * [1, -1] + [0, sheet.height]
        texts = [f"X{x:.3f} Y{y:.3f}" for x, y in (corners + 0.0).tolist()]
        lines += [f"G0 {texts[0]} F{plotter.travel:g}", *lower]
        lines += [f"G1 {texts[1]} F{plotter.feed:g}", *(f"G1 {text}" for text in texts[2:]), *lift]
    lines += [f"G0 X0 Y0 F{plotter.travel:g}", "M2"]
    return "\n".join([*lines, ""]).encode("ascii")
