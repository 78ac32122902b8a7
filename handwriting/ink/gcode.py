"""G-code for pen plotters: straight moves in millimetres, and a pen that a servo or a motor lifts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from handwriting.program import InputError

# What lifts the pen, and how a pause is written. A servo is told by M280 (Marlin) or as if it was a spindle by M3
# (GRBL's builds for servos); a third motor by its height.
PENS = {
    "servo": ("M280 P0 S{place:g}", "G4 P{milliseconds:g}"),
    "spindle": ("M3 S{place:g}", "G4 P{seconds:g}"),
    "z": ("G0 Z{place:g}", ""),
}
PLACES = {"servo": (60.0, 30.0), "spindle": (60.0, 30.0), "z": (5.0, 0.0)}  # (up, down) by default


@dataclass(frozen=True)
class Plotter:
    """What a machine takes. Raises InputError for values that cannot be used."""

    pen: str = "servo"  # one of PENS
    up: float | None = None  # degrees of a servo, a spindle's S, or mm of Z; None: as in PLACES
    down: float | None = None
    feed: float = 2000.0  # mm a minute, with the pen down
    travel: float = 5000.0  # mm a minute, with the pen up
    pause: float = 0.15  # s, for a servo to get there
    origin: str = "bottom left"  # of the page, with y upwards; or "top left", with y downwards

    def __post_init__(self) -> None:
        if self.pen not in PENS:
            raise InputError(f"pen {self.pen!r} is none; give one of {', '.join(PENS)}")
        if self.origin not in ("bottom left", "top left"):
            raise InputError(f"origin {self.origin!r} is none; give bottom left or top left")
        for name in ("feed", "travel"):
            if not 1 <= getattr(self, name) <= 100_000:
                raise InputError(f"{name} must be from 1 to 100000 mm a minute, not {getattr(self, name)}")
        if not 0 <= self.pause <= 10:
            raise InputError(f"pause must be from 0 to 10 s, not {self.pause}")

    def pen_commands(self, is_down: bool) -> list[str]:
        """The commands that lift or lower the pen, and wait for it."""
        given = self.down if is_down else self.up
        place = PLACES[self.pen][is_down] if given is None else given
        move, wait = PENS[self.pen]
        commands = [move.format(place=place)]
        if wait and self.pause:
            commands.append(wait.format(milliseconds=1000 * self.pause, seconds=self.pause))
        return commands


def gcode_bytes(strokes: list[np.ndarray], height: float, plotter: Plotter) -> bytes:
    """Strokes (n, 2), n >= 2, in mm from the top left corner of a page of `height` mm, in the order of writing.

    The program sets millimetres (G21) and absolute positions (G90), lifts the pen before it moves for the first time,
    travels by G0 and draws by G1, and ends at the origin with the pen up (M2).
    """
    up, down = plotter.pen_commands(False), plotter.pen_commands(True)
    lines = ["G21", "G90", *up]
    for stroke in strokes:
        places = stroke if plotter.origin == "top left" else stroke * [1, -1] + [0, height]
        texts = [f"X{x:.3f} Y{y:.3f}" for x, y in (places + 0.0).tolist()]
        lines += [f"G0 {texts[0]} F{plotter.travel:g}", *down]
        lines += [f"G1 {texts[1]} F{plotter.feed:g}", *(f"G1 {text}" for text in texts[2:]), *up]
    lines += [f"G0 X0 Y0 F{plotter.travel:g}", "M2"]
    return "\n".join([*lines, ""]).encode("ascii")
