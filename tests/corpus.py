"""A made-up corpus in the layout of IAM-OnDB."""

from pathlib import Path

import numpy as np


def write_corpus(folder: Path, texts: list[str], forms: int = 24) -> None:
    """Forms of waves, each with a line for each text, in the layout of IAM-OnDB, unpacked and without form lists."""
    rng = np.random.default_rng(0)
    for form in (f"a01-{number:03}" for number in range(forms)):
        strokes, ascii_folder = folder / "lineStrokes" / "a01" / form, folder / "ascii" / "a01" / form
        strokes.mkdir(parents=True)
        ascii_folder.mkdir(parents=True)
        lines = "\n".join(texts)
        (ascii_folder / f"{form}.txt").write_text(f"OCR:\n\nab\n\nCSR:\n\n{lines}\n")
        for line in range(1, len(texts) + 1):
            t = np.arange(60)
            x, y = 100 + 20 * t, 500 + 100 * np.sin(t) + rng.normal(0, 3, 60)
            points = [f'<Point x="{a}" y="{b:.0f}" time="{5 + c / 75:.2f}"/>' for a, b, c in zip(x, y, t, strict=True)]
            body = f"<Stroke>{''.join(points[:30])}</Stroke><Stroke>{''.join(points[30:])}</Stroke>"
            (strokes / f"{form}-0{line}.xml").write_text(f"<S><StrokeSet>{body}</StrokeSet></S>")
