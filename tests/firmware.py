"""What GRBL 1.1 and Marlin 2 make of a program, by their own rules: a small model of each, with its queue of moves.

Sources: gcode.c, protocol.c and spindle_control.c of GRBL; parser.cpp, planner.cpp and the pages on G0, G4, M280 and
M400 of Marlin's documentation.
"""

import re
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

BLOCKS = {"grbl": 15, "marlin": 16}  # moves that are queued
RAPID = 8000.0  # mm a minute: GRBL's own speed of G0
SERVO = 0.1  # s that a servo takes to a place


@dataclass
class Firmware:
    """A machine that has run a program: moves [(begin s, end s, from, to)] with x, y and z in mm, and the servo's."""

    kind: str  # "grbl" or "marlin"
    moves: list[tuple[float, float, np.ndarray, np.ndarray]] = field(default_factory=list)
    servo: list[tuple[float, float]] = field(default_factory=lambda: [(-1.0, 0.0)])  # from when on it goes where
    now: float = 0.0  # when a line is read
    here: np.ndarray = field(default_factory=lambda: np.zeros(3))
    feed: float = 0.0

    def run(self, text: str) -> "Firmware":
        for line in text.splitlines():
            assert line.isascii() and not re.search(r"[?!~\x18]", line), f"obeyed wherever it stands: {line}"
            if code := line.partition(";")[0].strip():
                assert len(code) <= 80, f"error 14: {line}"
                words = re.findall(r"([A-Z])(-?(?:\d+\.?\d*|\.\d+))(?![\d.])", code)
                assert "".join(a + b for a, b in words) == code.replace(" ", ""), f"error 1 or 2: {line}"
                assert len({letter for letter, _ in words}) == len(words), f"error 25: {line}"
                self.obey(words[0][0] + words[0][1], {letter: float(number) for letter, number in words[1:]}, line)
        self.wait()
        return self

    def wait(self) -> None:
        """Until all moves that are queued have ended."""
        self.now = max([self.now, *(end for _, end, _, _ in self.moves)])

    def obey(self, command: str, values: dict[str, float], line: str) -> None:
        grbl = self.kind == "grbl"
        match command, grbl:
            case (("G0" | "G1"), _):
                self.move(command, values, line)
            case "G4", _:
                self.wait()
                self.now += values["P"] if grbl else values["P"] / 1000
            case "M3", True:  # also waits, in spindle_sync
                self.wait()
                self.servo.append((self.now, values["S"]))
            case "M2", True:
                self.wait()
                self.servo.append((self.now, 0.0))
            case "M280", False:  # at once, whatever is queued
                assert 0 <= values["S"] <= 180 and values["P"] == 0
                self.servo.append((self.now, values["S"]))
            case "M400", False:
                self.wait()
            case (("G21" | "G90"), _):
                assert not values
            case "G94", True:
                assert not values
            case _:
                raise AssertionError(f"error 20, no such command: {line}")

    def move(self, command: str, values: dict[str, float], line: str) -> None:
        assert values.keys() <= set("XYZF") and values.keys() & set("XYZ"), f"error 26: {line}"
        self.feed = values.get("F", self.feed)
        there = np.array([values.get(axis, here) for axis, here in zip("XYZ", self.here, strict=True)])
        speed = RAPID if self.kind == "grbl" and command == "G0" else self.feed
        assert speed > 0, f"error 22, no feed: {line}"
        begin = max([self.now, *(end for _, end, _, _ in self.moves[-1:])])
        self.moves.append((begin, begin + 60 * np.hypot(*(there - self.here)[[0, 1]]) / speed
                           + 60 * abs(there[2] - self.here[2]) / speed, self.here, there))  # fmt: skip
        self.here = there
        if len(self.moves) > BLOCKS[self.kind]:  # the queue is full: the next line is read when there is room
            self.now = max(self.now, self.moves[-BLOCKS[self.kind]][0])

    def servo_at(self, time: float) -> float:
        """Where the servo is, moving evenly to each place that it is told."""
        place = 0.0
        for (begin, target), (end, _) in pairwise([*self.servo, (np.inf, 0.0)]):
            if begin < time:
                place += (target - place) * min(1.0, (min(time, end) - begin) / SERVO)
        return place

    def pens(self, uses_servo: bool) -> list[tuple[float, np.ndarray, np.ndarray]]:
        """Of each move across the paper its length, and where the pen is along it (3,), and its ends (2, 2)."""
        found = []
        for begin, end, a, b in self.moves:
            if length := np.hypot(*(b - a)[:2]):
                times = [begin + 1e-9, (begin + end) / 2, end - 1e-9]
                pen = [self.servo_at(time) for time in times] if uses_servo else [a[2], (a[2] + b[2]) / 2, b[2]]
                found.append((float(length), np.array(pen), np.array([a[:2], b[:2]])))
        return found
