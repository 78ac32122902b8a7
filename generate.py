"""Write with a trained network: a text that you give, or at random.

    python generate.py "Some text"
    python generate.py --task rand_write

From Python: `generate_conditionally` and `generate_unconditionally`.
"""

import argparse
import sys
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from data_preprocessing import encode
from model import POINTS_PER_CHARACTER, Mixture, Model, Window, log_density, log_window_weights, mixture
from utils import (
    InputError,
    draw_attention,
    draw_density,
    lines_figure,
    load_checkpoint,
    main_program,
    save_figure,
)

FORMATS = (".png", ".svg", ".pdf")
SHIPPED = Path(__file__).parent / "save"

# What a typewriter has in place of what a text from elsewhere may hold; accents are taken off besides.
REPLACEMENTS = str.maketrans(
    {
        "\u2018": "'", "\u2019": "'", "\u201a": "'", "\u201b": "'", "\u2032": "'", "\u00b4": "'", "`": "'",
        "\u201c": '"', "\u201d": '"', "\u201e": '"', "\u00ab": '"', "\u00bb": '"', "\u2033": '"',
        "\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2013": "-", "\u2014": "-", "\u2015": "-", "\u2212": "-",
        "\u2026": "...", "\u00df": "ss", "\u00e6": "ae", "\u00c6": "Ae", "\u0153": "oe", "\u0152": "Oe",
        "\u00f8": "o", "\u00d8": "O", "\u0142": "l", "\u0141": "L", "\u00d7": "x",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One generated line of T points."""

    points: np.ndarray  # (T, 3) float32: x and y offset in whiteboard units, y downwards; end-of-stroke bit
    outputs: np.ndarray  # (T, 1 + 6M) float32: what the network said before each point; read it with `mixture`
    phi: np.ndarray | None  # (T, U + 1) float32: window weights (eq. 46); the last column is beyond the text
    finished: bool  # False where the cap on steps ended the line


def draw_points(mix: Mixture, uniform: Tensor, normal: Tensor) -> Tensor:
    """One point from each of B distributions (eq. 23), given uniform (B, 2) and normal (B, 2) random numbers.

    Returns (B, 3), normalised.
    """
    cumulative = mix.log_pi.exp().cumsum(-1)  # (B, M)
    chosen = (cumulative < uniform[:, :1] * cumulative[:, -1:]).sum(-1)  # (B,)
    lines = torch.arange(len(chosen), device=chosen.device)
    mu, sigma = mix.mu[lines, chosen], mix.log_sigma[lines, chosen].exp()  # (B, 2)
    rho = torch.tanh(mix.atanh_rho[lines, chosen])
    # The lower triangle of the covariance's Cholesky factor is s1; s2 rho, s2 sqrt(1 - rho^2).
    second = rho * normal[:, 0] + (1 - rho.square()).clamp(min=0).sqrt() * normal[:, 1]
    offsets = mu + sigma * torch.stack([normal[:, 0], second], dim=-1)
    end = (uniform[:, 1] < torch.sigmoid(mix.end_logit)).to(offsets.dtype)
    return torch.cat([offsets, end[:, None]], dim=-1)


@torch.no_grad()
def sample(model: Model, texts: list[np.ndarray] | None, seeds: list[int], bias: float, steps: int) -> list[Line]:
    """Write lines, all at once: one for each seed, and for each of the texts (codes, (U,)) if the network takes any.

    A line ends, by the paper's rule (section 5.3), at the first point where the window is stronger beyond the text
    than on any of its characters; without a text, and at the latest, after `steps` points.
    """
    device, B = model.mean.device, len(seeds)
    uniform, normal = torch.empty(steps, B, 2), torch.empty(steps, B, 2)
    for b, seed in enumerate(seeds):  # each line has random numbers of its own
        generator = torch.Generator().manual_seed(seed)
        uniform[:, b] = torch.rand(steps, 2, generator=generator)
        normal[:, b] = torch.randn(steps, 2, generator=generator)
    uniform, normal = uniform.to(device), normal.to(device)

    characters = None
    if texts is not None:
        lengths = torch.tensor([len(text) for text in texts], device=device)
        codes = torch.full((B, int(lengths.max())), -1, device=device)
        for b, text in enumerate(texts):
            codes[b, : len(text)] = torch.as_tensor(text)
        characters = model.one_hot(codes)  # (B, U, C)
        beyond = torch.arange(codes.shape[1] + 1, device=device) > lengths[:, None]  # (B, U + 1)

    x, state = model.normalise(torch.zeros(1, B, 3, device=device)), None
    ends = torch.full((B,), steps, device=device)  # points that each line has
    points, outputs, phis = [], [], []
    for t in range(steps):
        output, state, window = model(x, characters, state)
        if window is not None:
            log_phi = log_window_weights(Window(*(p[0] for p in window)), codes.shape[1] + 1)  # (B, U + 1)
            log_phi = log_phi.masked_fill(beyond, -torch.inf)
            past = log_phi.argmax(-1) == lengths
            ends = torch.where(past & (ends == steps), t, ends)
            if (ends < steps).all():
                break
            phis.append(log_phi.exp())
        x = draw_points(mixture(output[0], bias), uniform[t], normal[t])[None]
        points.append(x[0])
        outputs.append(output[0])

    if not points:  # a window that starts beyond the text
        return [Line(np.zeros((0, 3), np.float32), np.zeros((0, model.head.out_features), np.float32), None, True)] * B
    drawn = model.denormalise(torch.stack(points)).cpu().numpy()  # (T, B, 3)
    said = torch.stack(outputs).cpu().numpy()
    weights = torch.stack(phis).cpu().numpy() if phis else None
    lines = []
    for b, end in enumerate(ends.tolist()):
        points = drawn[:end, b].copy()
        points[-1:, 2] = 1  # whatever comes next, the pen is lifted
        phi = None if weights is None else weights[:end, b, : len(texts[b]) + 1]
        lines.append(Line(points, said[:end, b], phi, texts is None or end < steps))
    return lines


# --------------------------------------------------------------------------------------------------- for other programs


@lru_cache(maxsize=4)
def _load(path: Path, modified: int) -> tuple[Model, dict]:
    return load_checkpoint(path)


def load_writer(checkpoint: Path | str | None, task: str) -> tuple[Model, dict]:
    """The network in `checkpoint`, by default the one that this project ships, kept in memory between calls.

    Raises InputError if it cannot be read or was not trained for `task`.
    """
    path = SHIPPED / f"{task}.pt" if checkpoint is None else Path(checkpoint)
    model, content = _load(path, path.stat().st_mtime_ns if path.is_file() else 0)
    if bool(model.config.num_chars) != (task == "synthesis"):
        raise InputError(f"{path}: a network of the other task; {task} is what was asked for")
    return model, content


def generate_unconditionally(
    samples: int = 1, steps: int = 700, bias: float = 0.0, seed: int = 0, checkpoint: Path | str | None = None
) -> list[Line]:
    """Write at random (section 4): `samples` lines of `steps` points each, the shipped network's by default.

    `bias` >= 0 makes the hand more even (section 5.4). Line number i has the seed `seed` + i: the same seed gives the
    same ink. Raises InputError for a checkpoint that cannot be used, ValueError for numbers out of range.
    """
    _check_numbers(samples, steps, bias, seed)
    model, _ = load_writer(checkpoint, "rand_write")
    return sample(model, None, [seed + i for i in range(samples)], bias, steps)


def generate_conditionally(
    text: str, samples: int = 1, steps: int | None = None, bias: float = 0.5, seed: int = 0,
    checkpoint: Path | str | None = None,
) -> list[Line]:  # fmt: skip
    """Write `text` (section 5) `samples` times; each line holds its window weights beside the points.

    `steps` is the most points of a line, by default plenty for the text; the others are as for
    `generate_unconditionally`. The text must consist of characters that the network learned, see `prepare_text`;
    raises InputError for others.
    """
    _check_numbers(samples, steps, bias, seed)
    model, content = load_writer(checkpoint, "synthesis")
    encode(text, learned_characters(content))  # names what was never learned, although it may have a code
    codes = encode(text, content["charset"])
    return sample(model, [codes] * samples, [seed + i for i in range(samples)], bias, steps or default_steps(text))


def learned_characters(content: dict) -> str:
    """Those characters of a checkpoint's set that its training lines had."""
    return "".join(c for c, count in zip(content["charset"], content["char_counts"], strict=True) if count)


def default_steps(text: str) -> int:
    """The cap on the points of a text: twice what its characters take on average, and some for a slow start."""
    return 2 * POINTS_PER_CHARACTER * len(text) + 100


def prepare_text(text: str, learned: str) -> tuple[str, list[str]]:
    """Replace what the network did not learn (curly quotes, long dashes, accents, ...) by what it did.

    Returns the text to write and, for each kind of replacement, a line that tells it. Raises InputError that names
    the characters for which there is no replacement, and for a text without any character.
    """
    told, pieces = [], []
    for character in unicodedata.normalize("NFC", " ".join(text.split())):
        piece = character
        if character not in learned:
            plain = unicodedata.normalize("NFKD", character.translate(REPLACEMENTS))
            plain = "".join(c for c in plain if not unicodedata.combining(c)).translate(REPLACEMENTS)
            if plain and set(plain) <= set(learned):
                piece = plain
                message = f"wrote {plain!r} for {character!r}"
                told += [message] if message not in told else []
        pieces.append(piece)
    prepared = "".join(pieces)
    if not prepared:
        raise InputError("the text is empty; give some characters to write")
    encode(prepared, learned)
    return prepared, told


def _check_numbers(samples: int, steps: int | None, bias: float, seed: int) -> None:
    for name, value, least, most in [
        ("samples", samples, 1, 10_000), ("steps", 1 if steps is None else steps, 1, 100_000), ("bias", bias, 0, 100),
        ("seed", seed, 0, 2**62),
    ]:  # fmt: skip
        if not least <= value <= most:
            raise ValueError(f"{name} must be from {least} to {most}, not {value}")


def density_map(model: Model, line: Line, bias: float, cell: float = 4.0) -> tuple[np.ndarray, tuple[float, ...]]:
    """The densities of the next pen position, added up over the line, on cells of `cell` whiteboard units.

    As in the paper's figure 10. Returns (rows, columns), per square whiteboard unit, and the extent (left, right,
    bottom, top), y downwards.
    """
    with torch.no_grad():
        positions = np.cumsum(line.points[:, :2], axis=0, dtype=np.float64)
        before = np.vstack([np.zeros((1, 2)), positions[:-1]])  # (T, 2), where the pen was when the network spoke
        low, high = positions.min(0) - 80, positions.max(0) + 80
        columns, rows = np.ceil((high - low) / cell).astype(int)
        total = np.zeros((rows, columns))
        mix = mixture(torch.from_numpy(line.outputs), bias)
        std, mean = model.std.cpu().numpy(), model.mean.cpu().numpy()
        reach = int(160 / cell)  # a step within a stroke is seldom longer
        for t, start in enumerate(before):
            column, row = ((start - low) / cell).astype(int)
            x = np.arange(max(column - reach, 0), min(column + reach, columns))
            y = np.arange(max(row - reach, 0), min(row + reach, rows))
            places = np.stack(np.meshgrid(x, y), axis=-1)  # (h, w, 2)
            offsets = (low + (places + 0.5) * cell - start - mean) / std
            at = Mixture(*(p[t] for p in mix))
            density = log_density(at, torch.from_numpy(offsets).float()).exp().numpy() / std.prod()
            total[y[0] : y[-1] + 1, x[0] : x[-1] + 1] += density
    return total, (low[0], low[0] + columns * cell, low[1] + rows * cell, low[1])


# -------------------------------------------------------------------------------------------------------- command line


def write_pictures(options: argparse.Namespace, lines: list[Line], text: str, model: Model) -> None:
    """Write the line picture, and beside it those of the window and of the densities, of the first line."""
    save_figure(lines_figure([line.points for line in lines]), options.output)
    print(f"wrote {options.output}")
    if options.attention:
        figure = Figure(figsize=(10, max(2.5, 0.16 * len(text))), layout="constrained")
        draw_attention(figure.subplots(), lines[0].phi[:, :-1], text)
        path = options.output.with_stem(options.output.stem + "_attention")
        save_figure(figure, path)
        print(f"wrote {path}")
    if options.density:
        density, extent = density_map(model, lines[0], options.bias)
        figure = Figure(figsize=(12, 1 + 12 * density.shape[0] / density.shape[1]), layout="constrained")
        draw_density(figure.subplots(), lines[0].points, density, extent)
        path = options.output.with_stem(options.output.stem + "_density")
        save_figure(figure, path)
        print(f"wrote {path}")


def make_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description="Write with a trained network: a text that you give, or at random.")
    add = parser.add_argument
    add("text", nargs="?", help="what to write; not with --task rand_write")
    add("--task", choices=("synthesis", "rand_write"), default="synthesis", help="default: %(default)s")
    add("--checkpoint", type=Path, help="the network, as train.py saves it (default: save/TASK.pt beside this script)")
    help_bias = "0: as varied as people write, 1 and more: even and legible (default: 0.5 for a text, 0 at random)"
    add("--bias", type=float, help=help_bias)
    add("--seed", type=int, default=0, help="same seed, same ink (default: %(default)s)")
    add("--samples", type=int, default=1, help="lines to write, each with the next seed (default: %(default)s)")
    add("--steps", type=int, help="most points of a line (default: 50 a character and 100, or 700 at random)")
    add("--output", type=Path, help="picture to write, .png, .svg or .pdf (default: examples/TASK.png)")
    add("--attention", action="store_true", help="write a picture of the window over the text too (paper, figure 13)")
    add("--density", action="store_true", help="write a picture of the predicted densities too (paper, figure 10)")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    options = make_parser().parse_args(arguments)
    with_text = options.task == "synthesis"
    if with_text and options.text is None:
        raise InputError('there is no text; give one: python generate.py "Some text"')
    if not with_text and options.text is not None:
        raise InputError("--task rand_write writes at random and takes no text; leave one of them out")
    if not with_text and options.attention:
        raise InputError("--attention: a network that writes at random has no window over a text")
    options.output = options.output or Path("examples") / f"{options.task}.png"
    if options.output.suffix.lower() not in FORMATS:
        raise InputError(
            f"{options.output}: cannot write {options.output.suffix or 'a file without ending'}; use .png, .svg or .pdf"
        )
    options.bias = (0.5 if with_text else 0.0) if options.bias is None else options.bias
    common = {name: getattr(options, name) for name in ("samples", "bias", "seed", "checkpoint")}
    model, content = load_writer(options.checkpoint, options.task)
    text = ""
    try:
        if with_text:
            text, told = prepare_text(options.text, learned_characters(content))
            for message in told:
                print(f"note: {message}", file=sys.stderr)
            lines = generate_conditionally(text, steps=options.steps, **common)
        else:
            lines = generate_unconditionally(steps=700 if options.steps is None else options.steps, **common)
    except ValueError as error:
        raise InputError(str(error)) from None
    unfinished = [options.seed + i for i, line in enumerate(lines) if not line.finished]
    if unfinished:
        print(
            f"note: not at the end of the text after {len(lines[unfinished[0] - options.seed].points)} points, seed "
            f"{', '.join(map(str, unfinished))}; try another --seed, more --bias or more --steps",
            file=sys.stderr,
        )
    if not all(len(line.points) for line in lines):
        raise InputError("the network wrote nothing: its window is beyond the text at once; train it longer")
    write_pictures(options, lines, text, model)


if __name__ == "__main__":
    main_program(main)
