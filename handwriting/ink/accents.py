"""Accents and signs that a network lacks, drawn as strokes: on the letters that it wrote, and in blanks.

Of a character such as `é` the network writes the letter, and its marks are drawn when the ink is there. A sign such as
`%` is a mark alone, for which the network writes a blank.
"""

import unicodedata
from typing import NamedTuple

import numpy as np

from handwriting.ink.geometry import USUAL_X_HEIGHT, Level, find_level, find_slant, resample, segments, smooth, turn
from handwriting.seeds import derived_seed
from handwriting.strokes import USUAL_STEP

# Marks: Unicode's combining character, or characters that it does not take apart; the letters that the network writes
# for these; where the mark goes; and its strokes, in the order and direction of a pen, as corners `x,y` in hundredths
# of an x-height, y downwards. They are from the middle of the letter's top (above) or bottom (below), from its top
# right (beside) or bottom right (tail) corner, or from the baseline in a blank; those over a letter are from its top
# left corner, in hundredths of its width and height.
TABLE = (
    ("\u0300", "", "above", "-16,-38 14,0"),  # grave
    ("\u0301", "", "above", "16,-42 -14,0"),  # acute
    ("\u0302", "", "above", "-25,0 -2,-32 25,2"),  # circumflex
    ("\u0303", "", "above", "-30,-4 -20,-18 -8,-19 6,-8 18,-5 30,-20"),  # tilde
    ("\u0304", "", "above", "-28,-10 28,-13"),  # macron
    ("\u0306", "", "above", "-22,-28 -15,-8 0,-1 15,-8 22,-30"),  # breve
    ("\u0307", "", "above", "-1,-12 2,-3"),  # dot
    ("\u0308", "", "above", "-22,-14 -19,-4; 18,-15 21,-5"),  # diaeresis
    ("\u0309", "", "above", "-12,-30 2,-37 12,-28 3,-14 1,0"),  # hook
    ("\u030a", "", "above", "2,-33 -13,-27 -16,-12 -4,-1 11,-5 16,-18 9,-31 -3,-33"),  # ring
    ("\u030b", "", "above", "0,-38 -22,0; 25,-40 3,-1"),  # double acute
    ("\u030c", "", "above", "-25,-32 -1,0 25,-35"),  # caron
    ("\u0323", "", "below", "-2,20 2,29"),  # dot
    ("\u0326", "", "below", "4,14 6,24 -6,42"),  # comma
    ("\u0327", "", "below", "2,-2 -4,13 11,18 15,30 4,40 -14,36"),  # cedilla
    ("\u0328", "", "tail", "-6,-2 -20,14 -18,30 -2,32"),  # ogonek
    ("\u031b", "", "beside", "-4,14 10,4 12,-12"),  # horn
    ("ďťľĽ", "dtlL", "beside", "16,-6 17,8 8,26"),
    ("ı", "i", "above", ""),
    ("øØ", "oO", "over", "112,-12 -12,112"),
    ("łŁ", "lL", "over", "80,38 -30,62"),
    ("đ", "d", "over", "45,18 125,15"),
    ("ħ", "h", "over", "-30,18 60,15"),
    ("Đ", "D", "over", "-25,52 38,49"),
    ("€", "C", "over", "-22,40 72,36; -26,62 66,58"),
    ("¥", "Y", "over", "12,58 90,55; 12,76 90,73"),
    ("$", "S", "over", "56,-14 46,114"),
    ("¢", "c", "over", "66,-30 40,130"),
    ("£", " ", "blank", "80,-135 62,-162 38,-150 36,-110 42,-55 30,-14 8,-4 30,-12 55,-2 84,-10; 8,-72 66,-76"),
    ("°", " ", "blank", "18,-172 3,-164 0,-148 12,-136 28,-141 33,-156 24,-170 13,-172"),
    ("¡", " ", "blank", "8,-108 10,-98; 8,-72 4,42"),
    ("¿", " ", "blank", "40,-108 43,-98; 38,-70 35,-45 8,-15 6,20 30,42 62,28"),
    ("§", " ", "blank", "44,-140 24,-154 8,-136 18,-110 44,-84 42,-60 22,-54; 22,-110 6,-88 18,-66 42,-40 46,-10 6,-8"),
    ("•", " ", "blank", "8,-62 0,-54 6,-44 16,-48 16,-58 8,-62"),
    ("±", " ", "blank", "30,-100 30,-30; 0,-66 60,-68; 0,-4 60,-6"),
    ("÷", " ", "blank", "0,-50 60,-52; 28,-84 31,-76; 28,-24 31,-16"),
    ("→", " ", "blank", "0,-50 80,-52; 58,-70 82,-52 60,-34"),
    ("%", " ", "blank", "22,-155 4,-140 6,-112 24,-106 38,-125 34,-148 20,-155; 92,-155 8,2; "
     "82,-50 64,-38 64,-10 80,0 97,-16 96,-40 80,-50"),
    ("#", " ", "blank", "48,-150 24,0; 88,-150 64,0; 14,-100 106,-104; 4,-50 98,-54"),
    ("@", " ", "blank", "62,-60 45,-68 28,-50 28,-22 42,-12 58,-30 64,-64 62,-25 72,-12 90,-25 96,-60 78,-95 45,-100 "
     "12,-80 2,-40 14,0 45,16 78,8"),
    ("*", " ", "blank", "30,-155 28,-98; 4,-142 54,-110; 54,-146 4,-108"),
    ("=", " ", "blank", "4,-62 56,-64; 4,-34 56,-36"),
    ("<", " ", "blank", "56,-92 4,-50 56,-8"),
    (">", " ", "blank", "4,-92 56,-50 4,-8"),
    ("_", " ", "blank", "0,12 70,12"),
    ("|", " ", "blank", "4,-165 2,30"),
    ("\\", " ", "blank", "4,-160 50,10"),
    ("~", " ", "blank", "0,-44 12,-58 26,-56 42,-44 56,-42 68,-56"),
    ("^", " ", "blank", "2,-120 22,-158 42,-118"),
    ("{", " ", "blank", "34,-165 18,-150 20,-90 4,-68 20,-48 18,20 34,36"),
    ("}", " ", "blank", "4,-165 20,-150 18,-90 34,-68 18,-48 20,20 4,36"),
)  # fmt: skip


class Mark(NamedTuple):
    """A row of the table, for one character."""

    letter: str  # that the network writes; "" for a combining character
    where: str
    strokes: list[np.ndarray]  # corners (n, 2), in x-heights or in sizes of the letter


MARK_OF = {
    character: Mark(letter, where, [np.array(stroke.replace(",", " ").split(), dtype=float).reshape(-1, 2) / 100
                                    for stroke in strokes.split(";") if stroke])
    for characters, letters, where, strokes in TABLE
    for character, letter in zip(characters, letters or [""], strict=True)
}  # fmt: skip
# Where a mark's (0, 0) is, as shares of the letter's width and height from its top left corner.
ORIGINS = {"above": (0.5, 0), "below": (0.5, 1), "beside": (1, 0), "tail": (1, 1), "over": (0, 0)}

TALL, CAPITAL = "bdfhklt", 1.6  # small letters that are as tall as capitals, and their height in x-heights
GAP, STACKED = 0.2, 0.1  # x-heights between a letter and a mark above it, and between two marks
NEAR, APART = 0.25, 1.2  # x-heights from a sign to what is beside it, and where a blank is between them
FEWEST = 4  # points of a letter that tell where it is
NARROWEST = 0.4  # x-heights, of a letter that a mark is put on


def split_character(character: str) -> tuple[str, str] | None:
    """The letter or blank that a network writes for a character, and the marks to draw; None if any is not known."""
    if character in MARK_OF and MARK_OF[character].letter:
        return MARK_OF[character].letter, character
    decomposed = unicodedata.normalize("NFD", character)
    marks = decomposed[1:]
    return (decomposed[0], marks) if marks and set(marks) <= set(MARK_OF) else None


class Frame:
    """A line in which letters are upright, the baseline is y = 0, and the unit is the x-height."""

    def __init__(self, strokes: list[np.ndarray], letters: str):
        """The frame of strokes (n, 2) that say `letters`; a usual one for ink of nothing but dots."""
        steps = np.hypot(*segments(strokes)[1].T)
        self.level = find_level(strokes) if steps.any() else Level(0.0, np.zeros(1), np.zeros(1), USUAL_X_HEIGHT)
        slant = find_slant([self.level.apply(stroke) for stroke in strokes])
        self.shear = np.tan(np.radians(np.clip(slant, -30, 30)))  # x by y; steeper lines are too short to tell
        tall = sum(character.isalnum() and not character.islower() for character in letters)
        is_capitals = steps.any() and tall > 0.65 * len(letters.replace(" ", ""))  # then their height was measured
        self.unit = self.level.x_height / (CAPITAL if is_capitals else 1)  # of the ink
        self.step = float(np.median(steps[steps > 0]) if steps.any() else USUAL_STEP) / self.unit  # between points

    def enter(self, positions: np.ndarray) -> np.ndarray:
        """Positions (n, 2) of the ink -> in the frame."""
        positions = self.level.apply(positions)
        positions[:, 0] += self.shear * positions[:, 1]
        return positions / self.unit

    def leave(self, positions: np.ndarray) -> np.ndarray:
        """Positions (n, 2) in the frame -> of the ink."""
        x, y = (positions * self.unit).T
        x = x - self.shear * y
        return turn(np.column_stack([x, y + np.interp(x, self.level.x, self.level.baseline)]), -self.level.slope)


# Positions (n, 2) of a stroke in the frame, and the place in the text of each point's character (n,), -1: none.
Stroke = tuple[np.ndarray, np.ndarray]
Drawn = tuple[list[np.ndarray], np.ndarray]  # strokes (n, 2), and the place in the text of each point's character (T,)


def draw_marks(strokes: list[np.ndarray], characters: np.ndarray, letters: str, text: str, seed: int = 0) -> Drawn:
    """Draw what is in `text` but not in `letters`, which the ink says: `split_character` of each character.

    strokes (n, 2) in any unit, y downwards, and the place in the text of each point's character (T,), -1 for none.
    Returns both with the marks in them: those of a word after it, a sign in its place, and what follows makes room. A
    mark above an i or j takes the place of its dot. `seed` is for small differences. A line of signs has no other ink.
    """
    if letters == text:
        return strokes, characters
    if not letters.strip():  # what the network wrote says nothing
        strokes, characters = [], characters[:0]
    frame = Frame(strokes, letters)
    owners = np.split(characters, np.cumsum([len(stroke) for stroke in strokes])[:-1])
    line = [(frame.enter(stroke), owner) for stroke, owner in zip(strokes, owners, strict=False)]
    for place, (letter, character) in enumerate(zip(letters, text, strict=True)):
        if letter == character:
            continue
        rng = np.random.default_rng(derived_seed("marks", seed, place))
        marks = [vary(MARK_OF[name], rng) for name in (split_character(character) or ("", ""))[1]]
        if letter == " ":
            at, shapes = place_sign(line, marks[0].strokes, place, text)
        else:
            if letter in "ij" and any(mark.where == "above" for mark in marks):
                remove_dot(line, letters, place)
            end = next((n for n in range(place, len(text)) if not text[n].isalpha()), len(text)) - 1  # of the word
            at, shapes = end_of(line, max(end, place)), place_marks(marks, letter_box(line, letters, place))
        for number, corners in enumerate(shapes):  # points as far apart as the line's, or nearer in a short stroke
            curve = smooth(corners)
            length = np.hypot(*np.diff(curve, axis=0).T).sum()
            positions = resample(curve, np.clip(length / 6, frame.step / 2, frame.step))
            line.insert(at + number, (positions, np.full(len(positions), place)))
    return [frame.leave(positions) for positions, _ in line], np.concatenate([owner for _, owner in line])


def without_marks(strokes: list[np.ndarray], characters: np.ndarray, letters: str, text: str) -> Drawn:
    """Undo `draw_marks`, whose arguments these are, but for dots that it took away and ink that it moved."""
    owners, drawn = np.split(characters, np.cumsum([len(stroke) for stroke in strokes])[:-1]), set()
    for place, (letter, character) in enumerate(zip(letters, text, strict=True)):
        if letter != character and (split := split_character(character)):
            count = sum(len(MARK_OF[name].strokes) for name in split[1])
            own = [number for number, owner in enumerate(owners) if (owner == place).all()]
            drawn.update(own[max(len(own) - count, 0) :])  # its marks come after what was written
    kept = [number for number in range(len(strokes)) if number not in drawn] or range(len(strokes))
    return [strokes[number] for number in kept], np.concatenate([owners[number] for number in kept])


def end_of(line: list[Stroke], place: int) -> int:
    """How many strokes there are up to the last one of the characters up to `place`."""
    known = [characters[characters >= 0] for _, characters in line]
    return max((n for n, owners in enumerate(known, 1) if len(owners) and np.median(owners) <= place), default=0)


def vary(mark: Mark, rng: np.random.Generator) -> Mark:
    """A mark as a hand would draw it: never twice the same."""
    size, angle = 1 + 0.06 * rng.standard_normal(), 0.05 * rng.standard_normal()
    tilt = size * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return mark._replace(strokes=[stroke @ tilt + 0.01 * rng.standard_normal(stroke.shape) for stroke in mark.strokes])


def place_marks(marks: list[Mark], box: np.ndarray) -> list[np.ndarray]:
    """The corners (n, 2) of all strokes of marks at a letter, whose ink is between the corners `box` (2, 2)."""
    (low, high), shapes = box, []
    for mark in marks:
        size = high - low if mark.where == "over" else 1
        origin = low + (high - low) * ORIGINS[mark.where] - [0, GAP if mark.where == "above" else 0]
        shapes += (placed := [stroke * size + origin for stroke in mark.strokes])
        if mark.where == "above" and placed:  # another mark stands on it
            low = np.array([low[0], np.concatenate(placed)[:, 1].min() + GAP - STACKED])
    return shapes


def letter_box(line: list[Stroke], letters: str, place: int) -> np.ndarray:
    """Where the ink of the letter at `place` is in the frame: ((left, top), (right, bottom)).

    Strokes that lead to it or away along the baseline do not count for left and right, and 4 % of its points at each
    side may be another's. A letter with next to no points is between its neighbours, or beside the nearest one.
    """
    everything, owners = (np.concatenate(parts) for parts in zip(*line, strict=True))
    is_tall = letters[place] in TALL or not letters[place].islower()
    points = everything[owners == place]
    points = points[(points[:, 1] > (-2.8 if is_tall else -1.6)) & (points[:, 1] < 1.5)]
    if len(points) < FEWEST:
        found = {n: everything[owners == n, 0] for n, letter in enumerate(letters) if letter != " "}
        middles = {n: (x.min() + x.max()) / 2 for n, x in found.items() if len(x) >= FEWEST}
        middles = middles or {place: everything[:, 0].mean()}
        beyond = max(place - max(middles), 0) + min(place - min(middles), 0)  # letters, an x-height apart
        middle = np.interp(place, [*middles], [*middles.values()]) + beyond
        return np.array([[middle - NARROWEST / 2, -CAPITAL if is_tall else -1.0], [middle + NARROWEST / 2, 0.0]])
    top, bottom = np.percentile(points[:, 1], [4, 96])
    body = points[points[:, 1] <= 0.7 * bottom + 0.3 * top, 0]
    left, right = np.percentile(body, [4, 96], method="nearest")
    heights = points[(points[:, 0] >= left) & (points[:, 0] <= right), 1]
    lacking = max(0.0, NARROWEST - (right - left)) / 2
    return np.array([[left - lacking, heights.min()], [right + lacking, heights.max()]])


def remove_dot(line: list[Stroke], letters: str, place: int) -> None:
    """Take away the dot of the i or j at `place`, if there is one near it and nearer to no other."""
    middles = {n: letter_box(line, letters, n)[:, 0].mean() for n, letter in enumerate(letters) if letter in "ij"}
    found = []
    for number, (positions, characters) in enumerate(line):
        low, high, owner = positions.min(0), positions.max(0), int(np.median(characters))
        x, y = (low + high) / 2
        distance, nearest = min((abs(middle - x), n) for n, middle in middles.items())
        is_dot = (high - low).max() < 0.4 and -2.6 < y < -1 and owner >= place and letters[owner] not in "'\""
        if is_dot and nearest == place and distance < 0.8:
            found.append((distance, number))
    if found:
        line.pop(min(found)[1])


def place_sign(line: list[Stroke], strokes: list[np.ndarray], place: int, text: str) -> tuple[int, list[np.ndarray]]:
    """Move what follows the blank at `place` to where a sign ends: how many strokes come before it, and the sign's."""
    left, right = ([x(positions[:, 0]) for positions, _ in line] for x in (np.min, np.max))
    at, last = end_of(line, place - 1), end_of(line, place)
    before, after = max(right[:at], default=-np.inf), min(left[last:], default=np.inf)
    while at < last and left[at] - before <= after - right[at]:  # strokes of the blank go with the nearer side
        at += 1
    sign = np.concatenate(strokes)[:, 0]
    gaps = [APART if text[n : n + 1] == " " else NEAR for n in (place - 1, place + 1)]
    after = min(left[at:], default=0.0)
    start = max(right[:at]) + gaps[0] if at else after - gaps[1] - np.ptp(sign)
    moved = start + np.ptp(sign) + gaps[1] - after if at else 0.0
    line[at:] = [(positions + [moved, 0.0], characters) for positions, characters in line[at:]]
    return at, [stroke + [start - sign.min(), 0.0] for stroke in strokes]
