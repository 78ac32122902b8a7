"""Hands to write in: those that the project ships, and ink of one's own."""

from pathlib import Path

from handwriting.alphabet import Alphabet
from handwriting.ink.formats import Ink
from handwriting.ink.geometry import hand_aspect, to_writing_scale
from handwriting.ink.read_ink import read_ink
from handwriting.program import InputError
from utils import SHIPPED

STYLES = SHIPPED / "styles"
ASPECTS = (0.2, 3.0)  # the x-height by the mean advance of a character: in recorded lines some 0.7


def list_styles() -> list[str]:
    """The names of the hands that the project ships. Raises InputError if there are none."""
    if names := sorted(path.stem for path in STYLES.glob("*.json")):
        return names
    raise InputError(f"there are no hands in {STYLES}; name a file of ink, or write without a style")


def known_styles(alphabet: Alphabet) -> list[str]:
    """The names of those hands that the project ships whose text a network can read."""
    hands = {path.stem: read_ink(path) for path in sorted(STYLES.glob("*.json"))}
    return [name for name, hand in hands.items() if set(hand.text) <= set(alphabet.learned)]


def load_style(style: str | Path) -> Ink:
    """A shipped hand by its name, or the ink in a file. Raises InputError if there is no such hand or ink."""
    if Path(style).suffix:
        return load_hand(style)
    if str(style) not in (names := list_styles()):
        raise InputError(f"there is no style {str(style)!r}; choose {', '.join(names)}, or name a file of ink")
    return read_ink(STYLES / f"{style}.json")


def load_hand(path: Path | str, text: str | None = None) -> Ink:
    """The ink in a file and what it says: `text`, or by default what the file tells.

    Ink that no network wrote is brought to what recorded lines are like. Raises InputError for ink that cannot be read,
    or that cannot say the text.
    """
    ink = read_ink(path)
    text = " ".join((ink.text if text is None else text).split())
    if not text:
        raise InputError(f"{path}: the ink of a hand needs its text; give it with --prime_text")
    try:
        is_raw = Path(path).suffix.lower() in (".json", ".npz")
        ink = Ink(ink.points if is_raw else to_writing_scale(ink.strokes), text, style=Path(path).stem)
        aspect = hand_aspect(ink.strokes, text)
    except ValueError as error:
        raise InputError(f"{path}: no ink to take a hand from: {error}") from None
    if not ASPECTS[0] <= aspect <= ASPECTS[1]:  # true for NaN
        found = "too long" if aspect > ASPECTS[1] else "too short"
        raise InputError(f"{path}: the text {text[:60]!r} is {found} for its ink; give what the ink says")
    return ink
