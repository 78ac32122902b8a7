"""Made-up handwriting of known slant, slope, x-height and joins, for the tests."""

import numpy as np

from handwriting.ink.formats import DOT, Ink, Page, Placed
from handwriting.strokes import to_points

TALL, LONG = "bdfhklt", "gjpqy"


def letter(character: str) -> np.ndarray:
    """The corners of a letter whose small part is a unit square: points (n, 2), x to the right and y downwards."""
    top = -2.2 if character in TALL or character.isupper() else -1.0
    bottom = 1.0 if character in LONG else 0.0
    return np.array([[0, top], [0, bottom], [0.05, -0.9], [0.3, -1], [0.6, -0.9], [0.6, 0]])


def write_line(
    text: str, x_height: float = 100.0, slant: float = 0.0, slope: float = 0.0, joined: bool = False, gap: float = 0.4,
    wave: float = 0.0, scale: float = 1.0,
) -> Ink:  # fmt: skip
    """A line of letters 0.6 x-heights wide, `gap` x-heights apart, a blank a whole x-height; an i has a dot.

    slant in degrees to the right, slope as y by x; `wave` is the amplitude, in x-heights, of a baseline that goes up
    and down once in 40 x-heights. Joined words are one stroke each. All positions are times `scale`.
    """
    strokes, owners, x = [], [], 0.0
    for place, character in enumerate(text):
        if character == " ":
            x += 1.0
            continue
        corners = letter(character) + [x, 0]
        x += 0.6 + gap
        if joined and place and text[place - 1] != " ":
            strokes[-1] = np.concatenate([strokes[-1], corners])
            owners[-1] = owners[-1] + [place] * len(corners)
        else:
            strokes.append(corners)
            owners.append([place] * len(corners))
        if character == "i" and not joined:
            strokes.append(corners[:1] - [0, 0.6])
            owners.append([place])
    finished, characters = [], []
    for stroke, owner in zip(strokes, owners, strict=True):
        at = np.linspace(0, len(stroke) - 1, 6 * (len(stroke) - 1) + 1)
        places = np.column_stack([np.interp(at, np.arange(len(stroke)), stroke[:, axis]) for axis in (0, 1)])
        characters += [owner[round(float(a))] for a in at]
        places[:, 0] -= np.tan(np.radians(slant)) * places[:, 1]
        places[:, 1] += slope * places[:, 0] + wave * np.sin(2 * np.pi * places[:, 0] / 40)
        finished.append(places * x_height * scale)
    return Ink(to_points(finished), text, np.array(characters), seed=3, bias=0.5, style="upright", checkpoint="c0ffee")


def make_page(**options) -> Page:
    """A page of 100 x 60 mm with two lines, some dots among them, and two rules."""
    lines = []
    for number, text in enumerate(["this is it", "a line in two"]):
        ink = write_line(text, slant=10)
        lines.append(Placed(ink, [stroke * 0.03 + [10, 20 + 15 * number] for stroke in ink.strokes]))
    rules = [np.array([[5.0, y], [95.0, y]]) for y in (25.0, 40.0)]
    return Page(100, 60, lines, rules, **options)


def drawn(page: Page) -> list[np.ndarray]:
    """A page's strokes, dots as the level strokes that pens draw in their place."""
    strokes = [stroke for placed in page.lines for stroke in placed.strokes]
    return [stroke if len(stroke) > 1 else stroke + [[-DOT / 2, 0], [DOT / 2, 0]] for stroke in strokes]
