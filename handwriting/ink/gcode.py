"""G-code for pen plotters: straight moves in millimetres, and a pen that a servo or a motor lifts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from handwriting.program import InputError

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
        for name, least, most, unit in (
            ("feed", 1, 100_000, "mm a minute"), ("travel", 1, 100_000, "mm a minute"), ("pause", 0, 10, "s"),
        ):  # fmt: skip
            if not least <= getattr(self, name) <= most:
                raise InputError(f"{name} must be from {least} to {most} {unit}, not {getattr(self, name)}")

    def pen_commands(self, is_down: bool) -> list[str]:
        """The commands that lift or lower the pen, and wait for it."""
        move, wait, *usual = PENS[self.pen]
        given = self.down if is_down else self.up
        commands = [move.format(place=usual[is_down] if given is None else given)]
        if wait and self.pause:
            commands.append(wait.format(milliseconds=1000 * self.pause, seconds=self.pause))
        return commands


def gcode_bytes(groups: Sequence[tuple[str | None, list[np.ndarray]]], height: float, plotter: Plotter) -> bytes:
    """A program that draws the strokes of all groups, as `svg.svg_bytes` takes them, on a page of `height` mm.

    It sets millimetres (G21) and absolute positions (G90), lifts the pen before it moves for the first time, travels by
    G0 and draws by G1, and ends at the origin with the pen up (M2).
    """
    up, down = plotter.pen_commands(False), plotter.pen_commands(True)
    lines = ["G21", "G90", *up]
    for stroke in (stroke for _, strokes in groups for stroke in strokes):
        places = stroke if plotter.origin == "top left" else stroke * [1, -1] + [0, height]
        texts = [f"X{x:.3f} Y{y:.3f}" for x, y in (places + 0.0).tolist()]
        lines += [f"G0 {texts[0]} F{plotter.travel:g}", *down]
        lines += [f"G1 {texts[1]} F{plotter.feed:g}", *(f"G1 {text}" for text in texts[2:]), *up]
    lines += [f"G0 X0 Y0 F{plotter.travel:g}", "M2"]
    return "\n".join([*lines, ""]).encode("ascii")
