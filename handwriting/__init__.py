"""Handwriting by a recurrent network. What is named here is imported when it is first asked for."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the same names as in _ROOMS, for editors and type checkers
    from handwriting.ink.formats import Ink, Page
    from handwriting.ink.gcode import Plotter
    from handwriting.ink.pictures import Drawing
    from handwriting.ink.read_ink import read_ink
    from handwriting.pages import PageFormat
    from handwriting.program import InputError
    from handwriting.writer import Writer, generate_conditionally, generate_unconditionally

__all__ = [
    "Drawing", "Ink", "InputError", "Page", "PageFormat", "Plotter", "Writer", "generate_conditionally",
    "generate_unconditionally", "read_ink",
]  # fmt: skip

_ROOMS = {
    "Drawing": "ink.pictures", "Ink": "ink.formats", "InputError": "program", "Page": "ink.formats",
    "PageFormat": "pages", "Plotter": "ink.gcode", "Writer": "writer", "generate_conditionally": "writer",
    "generate_unconditionally": "writer", "read_ink": "ink.read_ink",
}  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
