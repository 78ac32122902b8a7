"""What finds out how a plotter is set up."""

from __future__ import annotations

from handwriting.ink.gcode import pen_test_bytes
from handwriting.limits import PAGE_BIAS
from handwriting.program import InputError, atomic_write, escaped
from handwriting.requests.request import Request


class PenTest(Request):
    """A program that finds out where the pen is up and down. It needs no network."""

    subject, own_flags = "--pen_test", "pen_test"
    usual_bias, usual_output = PAGE_BIAS, "pen_test.gcode"

    def check_output(self) -> str:
        """The format of the output. Raises InputError for another than .gcode."""
        if (kind := super().check_output()) != "gcode":
            raise InputError(f"{self.output}: --pen_test is G-code; give a name that ends with .gcode")
        return kind

    def prepare(self) -> bytes:
        """The program."""
        return pen_test_bytes(self.plotter)

    def write(self, program: bytes) -> bytes:
        """The program; it has no ink."""
        return program

    place = write

    def save(self, sheets: bytes) -> None:
        """Write the program."""
        with atomic_write(self.output) as file:
            file.write(sheets)
        print(f"wrote {escaped(self.output)}: the shortest line is with the pen up, the longest with the pen down")
