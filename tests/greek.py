"""Made-up Greek handwriting: letters of a few corners each, drawn smoothly in hands of their own."""

import json
from pathlib import Path

import numpy as np

from handwriting.ink.geometry import smooth

# A letter's strokes as corners `x,y` in hundredths of an x-height, from the baseline, y downwards.
LETTERS = {
    "α": "70,-85 40,-100 8,-75 5,-30 30,0 55,-25 72,-95 70,-30 90,0", "β": "5,60 10,-120 35,-160 60,-130 35,-95 65,-70 "
    "60,-10 30,0 10,-20", "γ": "0,-100 35,-20 30,50 15,40 70,-100", "δ": "65,-145 30,-155 25,-125 60,-80 60,-20 30,0 "
    "5,-35 20,-85 50,-90", "ε": "60,-85 30,-100 10,-75 40,-55 8,-30 30,0 62,-15", "ζ": "10,-155 60,-150 15,-70 10,-15 "
    "55,10 35,45", "η": "0,-95 12,-80 12,0; 12,-65 40,-100 58,-70 58,50", "θ": "35,-155 5,-110 8,-30 35,0 62,-40 "
    "62,-120 35,-155; 8,-78 62,-80", "ι": "8,-98 8,-20 25,0 35,-15", "κ": "8,-98 8,0; 55,-98 10,-50 60,0",
    "λ": "5,-150 25,-135 70,0; 40,-80 3,0", "μ": "8,50 10,-98 12,-15 35,0 58,-30 60,-98 60,-15 78,0",
    "ν": "0,-98 30,0 62,-60 55,-98", "ξ": "55,-150 15,-140 12,-110 50,-90 10,-65 15,-15 55,5 35,45",
    "ο": "35,-100 5,-60 20,-5 50,-5 65,-55 35,-100", "π": "0,-85 15,-98 85,-98; 25,-95 20,0; 62,-95 65,-15 80,0",
    "ρ": "8,60 10,-60 35,-100 62,-65 55,-10 30,0 10,-20", "σ": "90,-98 35,-98 5,-50 30,0 62,-40 45,-95",
    "ς": "60,-90 30,-100 8,-60 25,-15 55,5 35,40", "τ": "0,-85 12,-98 65,-98; 35,-95 32,-20 50,0",
    "υ": "0,-98 12,-80 12,-25 35,0 62,-40 60,-98", "φ": "25,-95 5,-55 20,0 60,-5 80,-60 60,-100 42,-70 38,60",
    "χ": "0,-95 15,-90 60,45 75,40; 70,-98 5,45", "ψ": "0,-98 10,-40 40,0 70,-40 78,-98; 42,-130 36,60",
    "ω": "15,-95 0,-40 20,0 42,-45 62,0 85,-40 70,-98",
}  # fmt: skip
ACCENTED = dict(zip("άέήίόύώ", "αεηιουω", strict=True))
WORDS = (
    "και το η θάλασσα ήταν ήσυχη σπίτι δρόμος ουρανός μέρα νύχτα φως ξένος ψωμί βουνό κήπος γράμμα λέξη χέρι μάτι ζωή "
    "ψυχή πόλη άνθρωπος παιδί νερό γη φωτιά αέρας χρόνος λόγος φίλος δέντρο πουλί ψάρι βιβλίο τραγούδι θέση ξύλο ύπνος "
    "έξω ώρα όμως εδώ εκεί πάντα ποτέ ίσως μικρό ζεστό καλό βράδυ"
)


def write_letter(letter: str, rng: np.random.Generator) -> list[np.ndarray]:
    """The strokes (n, 2) of a letter, its corners shaken a little."""
    base = ACCENTED.get(letter, letter)
    text = LETTERS[base] + ("; 52,-145 38,-115" if letter in ACCENTED else "")
    strokes = [np.array([pair.split(",") for pair in stroke.split()], float) for stroke in text.split(";")]
    return [smooth(stroke + rng.normal(0, 2.5, stroke.shape), 6) for stroke in strokes]


def write_line(text: str, rng: np.random.Generator, slant: float = 0.2, size: float = 1.0) -> list[np.ndarray]:
    """The strokes (n, 2) of a line, in hundredths of an x-height times `size`."""
    strokes, x = [], 0.0
    for letter in text:
        if letter == " ":
            x += 80
            continue
        written = [stroke + [x, 0] for stroke in write_letter(letter, rng)]
        x = max(stroke[:, 0].max() for stroke in written) + rng.uniform(15, 30)
        strokes += written
    shear = np.array([[1, 0], [-slant, 1]])  # of (x, y) as a row
    return [stroke @ shear * size for stroke in strokes]


def write_greek(path: Path, lines: int = 300, writers: int = 10, x_height: float = 15.0) -> None:
    """A .jsonl of lines by some writers, who differ in slant; in pixels, with letters `x_height` high."""
    rng = np.random.default_rng(0)
    slants = rng.uniform(0, 0.4, writers)
    with path.open("w", encoding="utf-8") as file:
        for number in range(lines):
            text, writer = " ".join(rng.choice(WORDS.split(), 3)), number % writers
            strokes = write_line(text, rng, slants[writer], x_height / 100)
            rows = [np.round(stroke, 1).tolist() for stroke in strokes]
            row = {"text": text, "writer": f"w{writer}", "strokes": rows}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
