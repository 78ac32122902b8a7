"""Hands to write in: those that the project ships, ink of one's own, and hands that nobody has.

A network with an encoder reads a vector (D,) for the hand. One without can only go on from ink (section 5.5).
"""

import json
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from handwriting.checks import CPU, find_recogniser
from handwriting.encoder import HandEncoder
from handwriting.ink.formats import Ink
from handwriting.ink.geometry import find_level, hand_aspect, to_writing_scale
from handwriting.ink.read_ink import MAX_COORDINATE, read_ink, read_lines, split_name
from handwriting.program import InputError, atomic_write, note
from handwriting.recogniser import Recogniser, edit_distance
from handwriting.seeds import derived_seed
from model import Model
from utils import SHIPPED

STYLES = SHIPPED / "styles"
ASPECTS, USUAL_ASPECT = (0.2, 3.0), 0.7  # the x-height by the mean advance of a character, in recorded lines
SHARES = (0.6, 0.8)  # of the nearer form in a hand that nobody has
# Of a recorded line's vector from the mean of three others of its form; from those of other forms 1.3.
USUAL_DISTANCE = 0.55
LEAST_POINTS = 30  # of ink that a hand is taken from: a word has more
# Of ink that is to be a hand or a prime: the share of its text that may be read wrong; and if the text is not known,
# nats a character (see `Recogniser.read_with_doubt`), and the share of its usual letters that must be read.
MOST_MISREAD, MOST_DOUBT, LEAST_READ = 0.5, 1.0, 0.25
DOUBTED = 0.25  # the share of these from which on it could be upside down
Style = str | Path | Ink | Sequence[str | Path | Ink]


class Hand(NamedTuple):
    """What is known of a hand."""

    vector: np.ndarray  # (D,)
    slope: float  # of its lines, NaN if unknown


def list_styles() -> list[str]:
    """The names of the hands that the project ships. Raises InputError if there are none."""
    if names := sorted(path.stem for path in STYLES.glob("*.json")):
        return names
    raise InputError(f"there are no hands in {STYLES}; name a file of ink, or write without a style")


def style_path(style: str | Path) -> Path:
    """The file of a shipped hand, by its name, or of ink. Raises InputError for a name that no hand has."""
    if Path(style).suffix:
        return Path(style)
    if str(style) not in (names := list_styles()):
        raise InputError(f"there is no style {str(style)[:60]!r}; choose {', '.join(names)}, or name a file of ink")
    return STYLES / f"{style}.json"


def load_style(style: str | Path, force: bool = False) -> Ink:
    """A shipped hand by its name, or the ink in a file with its text. Raises InputError as `load_prime`."""
    path = style_path(style)
    return read_ink(path) if path.parent == STYLES else load_prime(path, force=force)


def load_prime(path: Path | str, text: str | None = None, force: bool = False) -> Ink:
    """The ink in a file and what it says: `text`, or by default what the file tells.

    Ink that no network wrote is brought to what recorded lines are like. Raises InputError for ink that cannot be read,
    or that cannot say the text; with `force` it is not asked what it reads as.
    """
    ink, *others = look_at(path, text, force)
    if others:
        raise InputError(f"{path}: holds {len(others) + 1} lines of ink; give one of them, as {path}#1")
    if not ink.text:
        raise InputError(f"{path}: the ink of a hand needs its text; give it with --prime_text")
    try:
        aspect = hand_aspect(ink.strokes, ink.text)
    except ValueError as error:
        raise InputError(f"{path}: no ink to take a hand from: {error}") from None
    if not ASPECTS[0] <= aspect <= ASPECTS[1]:  # true for NaN
        found = "too long" if aspect > ASPECTS[1] else "too short"
        raise InputError(f"{path}: the text {ink.text[:60]!r} is {found} for its ink; give what the ink says")
    check_faults([ink], path)
    return replace(ink, style=split_name(path)[0].stem, fault="")


def look_at(path: Path | str, text: str | None = None, force: bool = False) -> list[Ink]:
    """The lines of ink in a file, at the scale of recorded lines and the right way up, with `text` if it is given.

    A recogniser reads them: if it is far from the text, or reads hardly anything, that is in `Ink.fault`. Hands that
    ship are taken as they are, and with `force` all. Raises InputError for ink that cannot be read.
    """
    name = split_name(path)[0]
    is_own, inks = name.suffix.lower() in (".json", ".npz"), []
    recogniser = None if force or name.parent == STYLES else find_recogniser(CPU)
    for ink in read_lines(path):
        try:
            said = " ".join((ink.text if text is None else text).split())
            inks.append(Ink(ink.points if is_own else to_writing_scale(ink.strokes), said))
            if recogniser and (fault := judge_reading(inks[-1], recogniser))[0] > DOUBTED:
                strokes = [stroke * [1, -1] for stroke in ink.strokes]
                turned = Ink(ink.points * [1, -1, 1] if is_own else to_writing_scale(strokes), said)
                if (other := judge_reading(turned, recogniser))[0] < fault[0] / 2:
                    note(f"{path}: the ink is upside down, and is turned")
                    inks[-1], fault = turned, other
                inks[-1] = replace(inks[-1], fault=fault[1] if fault[0] > 1 else "")
        except ValueError as error:
            raise InputError(f"{path}: no ink to take a hand from: {error}") from None
    return inks


def judge_reading(ink: Ink, recogniser: Recogniser) -> tuple[float, str]:
    """How far ink is from its text, or from any, by what is allowed, and how a message tells it; 0 if nobody knows."""
    ((read, doubt),) = recogniser.read_with_doubt([ink.points])
    known = "".join(c for c in unicodedata.normalize("NFD", ink.text) if c in recogniser.config.charset)
    if ink.text:
        wrong = edit_distance(known, read) / max(len(known), 1) if 2 * len(known) > len(ink.text) else 0.0
        return wrong / MOST_MISREAD, f"reads as {read!r}, not {ink.text!r}"
    level = find_level(ink.strokes)
    usual = USUAL_ASPECT * np.ptp(np.concatenate(ink.strokes)[:, 0]) / level.x_height
    is_little = len(read.replace(" ", "")) < LEAST_READ * usual
    return np.inf if is_little else doubt / MOST_DOUBT, f"reads as {read!r}, which is no writing"


def check_faults(inks: list[Ink], path: Path | str) -> None:
    """Raise InputError if most of the ink in a file reads as something else."""
    faults = [ink.fault for ink in inks if ink.fault]
    if 2 * len(faults) > len(inks):
        raise InputError(f"{path}: {faults[0]}; see it with --show_prime FILE.png, or take it as it is with --force")


def parse_style(style: Style) -> list[tuple[str | Path | Ink, float]]:
    """The hands that a style mixes, and how much of each: of "clara:2,ben" or a list of ink. InputError for none."""
    if isinstance(style, Path | Ink) or (isinstance(style, str) and os.path.isfile(style)):  # False for a name too long
        return [(style, 1.0)]
    if not isinstance(style, str):
        return [part for each in style or [""] for part in parse_style(each)]
    parts = [re.fullmatch(r"(.+?)(?::([\d.]+))?", part.strip()) for part in style.split(",")]
    try:
        found: list[tuple[str | Path | Ink, float]] = [(part[1], float(part[2] or 1)) for part in parts if part]
    except ValueError:
        found = []
    if len(found) < len(parts) or not sum(share for _, share in found) > 0:
        raise InputError(f"--style {style}: give a hand, or several as clara:0.5,ben:0.5")
    return found


def style_paths(style: str | None) -> list[Path]:
    """The files of the hands that a style mixes. Raises InputError for a name that no hand has."""
    return [style_path(str(part)) for part, _ in parse_style(style)] if style is not None else []


def read_hand(part: str | Path | Ink, encoder: HandEncoder, force: bool = False) -> Hand:
    """The hand that ink is in, or a file of ink, or that `save_hand` wrote. `force` is as for `load_prime`."""
    if isinstance(part, Ink):
        inks, name = [part], "the ink"
    else:
        path = style_path(part)
        if (saved := load_hand(path, encoder)) is not None:
            return saved
        check_faults(inks := look_at(path, force=force), path)
        name = str(path)
    points = [ink.points for ink in inks]
    if sum(map(len, points)) < LEAST_POINTS:
        raise InputError(f"{name}: too little ink to take a hand from; give a line of some words")
    if not all(np.abs(each[:, :2]).max() <= MAX_COORDINATE for each in points):
        raise InputError(f"{name}: the pen goes beyond {MAX_COORDINATE:g}; give ink in whiteboard units")
    return Hand(encoder.encode(points).mean(0), float(np.mean([find_level(ink.strokes).slope for ink in inks])))


def load_hand(path: Path, encoder: HandEncoder) -> Hand | None:
    """What `save_hand` has written to a file, None for another file. InputError for one of another encoder."""
    try:
        content = json.loads(path.read_bytes()) if path.suffix.lower() == ".json" else {}
        vector, slope = np.array(content["hand"], np.float32), float(np.clip(content.get("slope", np.nan), -1, 1))
        digest = content["encoder"]
    except OSError:
        raise InputError(f"{path}: no such file of ink") from None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if digest != encoder.digest() or vector.shape != (encoder.config.hand_size,) or not np.isfinite(vector).all():
        raise InputError(f"{path}: the hand of another network; take it from its ink again")
    return Hand(vector, slope)


def save_hand(vector: np.ndarray, slope: float, encoder: HandEncoder, path: Path) -> None:
    """Write a hand as .json, for `--style`: its vector (D,), and the slope of its lines if it is known."""
    known = {} if np.isnan(slope) else {"slope": round(slope, 5)}
    content = {"hand": [round(float(number), 5) for number in vector], "encoder": encoder.digest()} | known
    with atomic_write(path) as file:
        file.write(json.dumps(content).encode() + b"\n")


def mix_hands(style: Style, encoder: HandEncoder, force: bool = False) -> Hand:
    """The mean of a style's hands, by their shares. `force` is as for `load_prime`."""
    parts = parse_style(style)
    found = zip(*(read_hand(part, encoder, force) for part, _ in parts), strict=True)
    vector, slope = (np.average(each, axis=0, weights=[share for _, share in parts]) for each in found)
    return Hand(vector.astype(np.float32), float(slope))


def random_vector(encoder: HandEncoder, seed: int) -> np.ndarray:
    """The vector (D,) of a hand that nobody has: between two of the training forms, nearer to one, and as long."""
    rng, forms = np.random.default_rng(derived_seed("hand", seed)), encoder.forms.numpy(force=True)
    first, second = forms[rng.choice(len(forms), 2, replace=False)]
    share = rng.uniform(*SHARES)
    mixed = share * first + (1 - share) * second
    return mixed * np.linalg.norm(first) / max(np.linalg.norm(mixed), 1e-6)


def strengthen(vectors: np.ndarray, model: Model, strength: float | np.ndarray) -> np.ndarray:
    """Vectors (..., D) at `strength` times, one for all or (..., 1), their distance from the mean hand."""
    mean = model.get_buffer("hand_mean").numpy(force=True)
    return mean + strength * (vectors - mean)


def steer(vectors: np.ndarray, model: Model, encoder: HandEncoder, strength: float | np.ndarray = 1.0) -> np.ndarray:
    """What a network is given (..., D) for hands (..., D), each by itself, at a `strength` as for `strengthen`."""
    mean, steering = model.get_buffer("hand_mean").numpy(force=True), encoder.steering.numpy(force=True)
    return mean + ((strength * (vectors - mean))[..., None] * steering[:-1]).sum(-2) + steering[-1]


def style_name(style: Style | None) -> str:
    """What ink in a style is said to be in."""
    if style is None:
        return ""
    parts = [(part.style if isinstance(part, Ink) else Path(part).stem, share) for part, share in parse_style(style)]
    return ",".join(name if share == 1 else f"{name}:{share:g}" for name, share in parts if name)
