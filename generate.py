"""Write with a trained network: a text that you give, or at random.

    python generate.py "Some text"
    python generate.py "A line." "Another line."
    python generate.py --task rand_write

From Python: `generate_conditionally` and `generate_unconditionally`.
"""

import argparse
import math
import sys
import unicodedata
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from checks import check_lines
from data_preprocessing import encode
from model import GREATEST_LOG_SIGMA, POINTS_PER_CHARACTER, Decoder, Mixture, Model, mixture
from utils import (
    InputError,
    ResultError,
    draw_attention,
    draw_density,
    lines_figure,
    load_checkpoint,
    run_cli,
    save_figure,
)

FORMATS = (".png", ".svg", ".pdf")
SHIPPED = Path(__file__).parent / "save"
RETRIES = 3  # how often a line that is wrong is written again

# What a typewriter has in place of what a text from elsewhere may hold; accents are taken off besides.
REPLACEMENTS = str.maketrans(
    {
        "\u2018": "'", "\u2019": "'", "\u201a": "'", "\u201b": "'", "\u2032": "'", "\u00b4": "'", "`": "'",
        "\u201c": '"', "\u201d": '"', "\u201e": '"', "\u00ab": '"', "\u00bb": '"', "\u2033": '"',
        "\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2013": "-", "\u2014": "-", "\u2015": "-", "\u2212": "-",
        "\u2026": "...", "\u00df": "ss", "\u00e6": "ae", "\u00c6": "Ae", "\u0153": "oe", "\u0152": "Oe",
        "\u02bc": "'", "\u2044": "/", "\u00f8": "o", "\u00d8": "O", "\u0142": "l", "\u0141": "L", "\u00d7": "x",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One generated line: the point where the pen touches down, and T steps from there.

    As in a recorded line, points[0] is (0, 0, 0): the network reads it first. Having read points[: t + 1], with its
    window at phi[t], it says in outputs[t] what comes as points[t + 1].
    """

    points: np.ndarray  # (T + 1, 3) float32: x and y offset in whiteboard units, y downwards; end-of-stroke bit
    outputs: np.ndarray  # (T, 1 + 6M) float32: read them with `mixture`
    phi: np.ndarray | None  # (T, U + 1) float32: window weights (eq. 46); the last column is beyond the text
    finished: bool | None  # whether the window passed the text before the cap on steps; None without a text
    text: str = ""  # what was written
    fault: str = ""  # what `checks.Verdict` finds wrong with it, "" if nothing


def draw_noise(generators: list[torch.Generator], points: int, clusters: int, biases: np.ndarray) -> np.ndarray:
    """The random numbers that `draw_points` needs for `points` points of each line, with bias (B,): (points, B, 3 + M).

    The biases (eq. 61, 62) work on these numbers, once for all points. A deviation's factor exp(-b) is that of the two
    normal numbers; and the greatest sum of b-sharpened log probability and noise is that of log probability and noise
    divided by 1 + b.
    """
    pieces = []
    for generator, bias in zip(generators, biases.tolist(), strict=True):  # each line has its own
        normal = torch.randn(points, 2, generator=generator) * math.exp(-bias)
        uniform = torch.rand(points, 1 + clusters, generator=generator).clamp_(min=1e-30)
        logistic = torch.special.logit(uniform[:, :1])
        gumbel = -torch.log(-torch.log(uniform[:, 1:])) / (1 + bias)
        pieces.append(torch.cat([normal, logistic, gumbel], dim=1))
    return torch.stack(pieces, dim=1).numpy()


def draw_points(outputs: np.ndarray, noise: np.ndarray, points: np.ndarray) -> None:
    """One point from each of B distributions (eq. 23), given raw outputs (B, 1 + 6M).

    noise (B, 3 + M) from `draw_noise`: two normal numbers, one logistic, and M of Gumbel's distribution, by which the
    greatest sum of log probability and noise has the component's probability; the biases have been at work on it.
    Writes to `points` (B, 3), normalised. The parameters are those of `mixture` within its guards against overflow, but
    only the chosen component's are worked out.
    """
    by_cluster = outputs[:, 1:].reshape(len(outputs), 6, -1)
    chosen = (by_cluster[:, 0] + noise[:, 3:]).argmax(1)  # (B,)
    raw = by_cluster[np.arange(len(outputs)), :, chosen]  # (B, 6)
    # The lower triangle of the covariance's Cholesky factor is s1; s2 rho, s2 sqrt(1 - rho^2), where rho is the tanh
    # of a raw number (eq. 22), and the root one over its cosh.
    first, second, a = noise[:, 0], noise[:, 1], raw[:, 5]
    points[:, 0] = first
    np.add(np.tanh(a) * first, second / np.cosh(a), out=points[:, 1])
    offsets = points[:, :2]
    offsets *= np.exp(np.minimum(raw[:, 3:5], GREATEST_LOG_SIGMA))
    offsets += raw[:, 1:3]
    np.less(outputs[:, 0] + noise[:, 2], 0, out=points[:, 2])  # with probability e (eq. 18)


BLOCK = 256  # points for which random numbers are drawn and results kept in one piece


@np.errstate(over="ignore", invalid="ignore")  # of networks that have gone astray
@torch.inference_mode()
def sample(
    model: Model, texts: list[np.ndarray] | None, seeds: list[int], bias: float | list[float], steps: int | list[int]
) -> list[Line]:
    """Write lines, all at once: one for each seed, and for each of the texts (codes, (U,)) if the network takes any.

    A line ends, by the paper's rule (section 5.3), at the first point where the window is stronger beyond the text
    than on any of its characters; without a text, and at the latest, after `steps` steps. `bias` and `steps` may be
    one for all or one for each line. A line's ink depends on its seed, not on the lines beside it.
    """
    B = len(seeds)
    text, width = None, 0
    if texts is not None:
        width = max(map(len, texts), default=0) + 1
        text = torch.full((B, width - 1), -1)
        for b, codes in enumerate(texts):
            text[b, : len(codes)] = torch.as_tensor(codes)
    decoder = Decoder(model, text, B)
    x = model.normalise(model.mean.new_zeros(B, 3)).cpu().numpy()
    biases = np.broadcast_to(np.asarray(bias, x.dtype), B)
    caps = np.broadcast_to(steps, B)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    pieces = [[] for _ in range(B)]  # of each line: (points, outputs, phi), in order
    finished = [None if texts is None else False] * B
    alive = list(range(B))
    t = 0
    while alive:  # write a block, or as much of it as there is until a line ends and leaves
        start = t % BLOCK
        if start == 0:
            noise = draw_noise(generators, BLOCK, model.config.num_clusters, biases)  # (BLOCK, living lines, 3 + M)
        size, n = min(BLOCK - start, int(caps.min()) - t), 0
        points = np.empty((size, len(alive), 3), x.dtype)
        outputs = np.empty((size, len(alive), model.head.out_features), x.dtype)
        phis = np.empty((size, len(alive), width), x.dtype)
        past = np.zeros(len(alive), dtype=bool)  # lines that are past their text
        while n < size and not past.any():
            outputs[n], phi, is_past = decoder.step(x)
            if phi is not None:
                phis[n], past = phi, is_past
            draw_points(outputs[n], noise[start + n], points[n])
            x = points[n]
            n, t = n + 1, t + 1
        for place, (line, is_past) in enumerate(zip(alive, past.tolist(), strict=True)):
            if is_past:
                finished[line] = True
            count = n - is_past  # the point that was drawn after a line's end does not count
            pieces[line].append([array[:count, place] for array in (points, outputs, phis)])
        staying = np.flatnonzero(~past & (caps > t))
        if len(staying) < len(alive):
            alive, generators = ([old[place] for place in staying] for old in (alive, generators))
            x, biases, caps, noise = x[staying], biases[staying], caps[staying], noise[:, staying]
            decoder.keep(staying)

    lines = []
    for line, parts in enumerate(pieces):
        points, outputs, phis = (np.concatenate(part) for part in zip(*parts, strict=True))
        points = model.denormalise(torch.from_numpy(points).to(model.mean.device)).cpu().numpy()
        points = np.pad(points, ((1, 0), (0, 0)))  # where the pen touches down, (T + 1, 3)
        points[-1, 2] = 1  # whatever comes next, the pen is lifted
        phi = None if texts is None else phis[:, : len(texts[line]) + 1]
        lines.append(Line(points, outputs, phi, finished[line]))
    return lines


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


def derived_seed(seed: int, attempt: int) -> int:
    """The seed of a line's try number `attempt`, from 0: at first its own, then one that no other line is likely to."""
    words = np.random.SeedSequence([seed, attempt]).generate_state(1, np.uint64)
    return int(words[0] >> 1) if attempt else seed


def write_checked(
    model: Model, texts: list[str] | None, charset: str, seeds: list[int], bias: float, steps: list[int], retries: int
) -> list[Line]:
    """`sample`, and those lines again that are wrong, up to `retries` times; of a line's tries the best is kept.

    Without `retries` nobody reads the lines: they come as they are, and `Line.fault` knows of caps and rests only.
    """
    best = {}  # of each line: (its verdict, the line)
    wrong = list(range(len(seeds)))
    for attempt in range(retries + 1):
        codes = None if texts is None else [encode(texts[i], charset) for i in wrong]
        tries = sample(model, codes, [derived_seed(seeds[i], attempt) for i in wrong], bias, [steps[i] for i in wrong])
        if texts is not None:
            tries = [replace(line, text=texts[i]) for i, line in zip(wrong, tries, strict=True)]
        for i, verdict, line in zip(wrong, check_lines(tries, with_reader=retries > 0), tries, strict=True):
            if i not in best or verdict.badness < best[i][0].badness:
                best[i] = verdict, line
        wrong = [i for i in wrong if best[i][0].fault]
        if not wrong:
            break
    return [replace(line, fault=verdict.fault) for _, (verdict, line) in sorted(best.items())]


def generate_unconditionally(
    samples: int = 1, steps: int = 700, bias: float = 0.0, seed: int = 0, checkpoint: Path | str | None = None,
    retries: int = RETRIES,
) -> list[Line]:  # fmt: skip
    """Write at random (section 4): `samples` lines of `steps` steps each, the shipped network's by default.

    `bias` >= 0 makes the hand more even (section 5.4). Line number i has the seed `seed` + i: the same seed gives the
    same ink. A line in which the pen rests is written again with seeds derived from its own, up to `retries` times;
    what is still wrong then is in `Line.fault`. Raises InputError (a ValueError) for a checkpoint that cannot be used
    and for numbers out of range.
    """
    _check_numbers(samples, steps, bias, seed, retries)
    model, _ = load_writer(checkpoint, "rand_write")
    return write_checked(model, None, "", [seed + i for i in range(samples)], bias, [steps] * samples, retries)


def generate_conditionally(
    text: str | list[str], samples: int = 1, steps: int | None = None, bias: float = 0.5, seed: int = 0,
    checkpoint: Path | str | None = None, retries: int = RETRIES,
) -> list[Line]:  # fmt: skip
    """Write a text, or each of several (section 5), `samples` times; each line holds its window weights too.

    The text that is written is what `prepare_text` makes of `text`, see `Line.text`. `steps` is the most steps of a
    line, by default plenty for its text; the others and the errors are as for `generate_unconditionally`, and
    characters that the network never learned are an InputError that names them. Lines are written again, too, if
    `steps` cut them off or the reader cannot read them; with `retries` 0 they are not read.
    """
    model, content = load_writer(checkpoint, "synthesis")
    learned = learned_characters(content)
    prepared = [prepare_text(t, learned)[0] for t in ([text] if isinstance(text, str) else text)]
    longest = max(map(default_steps, prepared), default=1)
    _check_numbers(samples, longest if steps is None else steps, bias, seed, retries)
    texts = [t for t in prepared for _ in range(samples)]
    caps = [default_steps(t) if steps is None else steps for t in texts]
    return write_checked(model, texts, content["charset"], [seed + i for i in range(len(texts))], bias, caps, retries)


def learned_characters(content: dict) -> str:
    """Those characters of a checkpoint's set that its training lines had."""
    return "".join(c for c, count in zip(content["charset"], content["char_counts"], strict=True) if count)


def default_steps(text: str) -> int:
    """The cap on the steps of a text: twice what its characters take on average, and some for a slow start."""
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
            plain = unicodedata.normalize("NFKD", character.translate(REPLACEMENTS)).translate(REPLACEMENTS).strip()
            plain = "".join(c for c in plain if not unicodedata.combining(c) and unicodedata.category(c) != "Cf")
            is_invisible = unicodedata.combining(character) or unicodedata.category(character) == "Cf"
            if (plain or is_invisible) and set(plain) <= set(learned):
                piece = plain
                message = f"wrote {plain!r} for {character!r}" if plain else f"left out {character!a}"
                told += [message] if message not in told else []
        pieces.append(piece)
    prepared = "".join(pieces)
    if not prepared:
        raise InputError("the text is empty; give some characters to write")
    encode(prepared, learned)
    return prepared, told


def _check_numbers(samples: int, steps: int, bias: float, seed: int, retries: int) -> None:
    ranges = {
        "samples": (samples, 1, 10_000), "steps": (steps, 1, 100_000), "bias": (bias, 0, 100),
        "seed": (seed, 0, 2**62), "retries": (retries, 0, 100),
    }  # fmt: skip
    for name, (value, least, most) in ranges.items():
        if not least <= value <= most:
            raise InputError(f"{name} must be from {least} to {most}, not {value}")


def cell_masses(
    mu: np.ndarray, sigma: np.ndarray, rho: float, edges: tuple[np.ndarray, np.ndarray], nodes: int = 8
) -> np.ndarray:
    """The probability of each cell of a grid under one bivariate normal distribution: (rows, columns).

    mu (2,), sigma (2,) and the cells' edges, (columns + 1,) in x and (rows + 1,) in y, are in one unit. The sums along
    the axis of the greater deviation are exact, and so is that of all cells of the plane, 1, whatever the deviations.
    How a column's share is spread along the other axis is the mean of what it is at `nodes` of its points: with eight
    some 0.1 % of the mass is in a cell beside its own for |rho| up to 0.9, 1 % up to 0.99 and 2 % beyond.
    """
    if sigma[0] < sigma[1]:
        return cell_masses(mu[::-1], sigma[::-1], rho, edges[::-1], nodes).T
    x, y = ((torch.from_numpy(e) - m) / s for e, m, s in zip(edges, mu, sigma, strict=True))  # standard normal each
    below = torch.special.ndtr(x)  # (columns + 1,)
    parts = (torch.arange(nodes, dtype=x.dtype) + 0.5) / nodes
    share = below.diff()  # (columns,)
    middles = torch.special.ndtri(below[:-1, None] + share[:, None] * parts).clamp(-9, 9)  # (columns, nodes)
    shifted = (y - rho * middles[..., None]) / (1 - rho**2) ** 0.5  # given x, y is normal about rho x
    return (torch.special.ndtr(shifted).diff(dim=-1).mean(1) * share[:, None]).T.numpy()


def density_map(model: Model, line: Line, bias: float, cell: float = 4.0) -> tuple[np.ndarray, tuple[float, ...]]:
    """The densities of the next pen position, added up over the line, in cells of `cell` whiteboard units.

    As in the paper's figure 10. Each cell has the mass that falls into it, see `cell_masses`, by its area. Returns
    (rows, columns), per square whiteboard unit, and the extent (left, right, bottom, top), y downwards.
    """
    path = np.cumsum(line.points[:, :2], axis=0, dtype=np.float64)  # (T + 1, 2)
    low, high = path.min(0) - 80, path.max(0) + 80
    counts = np.ceil((high - low) / cell).astype(int)  # columns, rows
    total = np.zeros(counts[::-1])
    mix = Mixture(*(p.double() for p in mixture(torch.from_numpy(line.outputs), bias)))
    std, mean = model.std.double().cpu().numpy(), model.mean.double().cpu().numpy()
    mu, sigma = mix.mu.numpy() * std + mean, mix.log_sigma.exp().numpy() * std  # (T, M, 2), whiteboard units
    weight, rho = mix.log_pi.exp().numpy(), mix.atanh_rho.clamp(-6, 6).tanh().numpy()  # (T, M)
    for t, m in np.argwhere(weight > 1e-4):  # one with next to no weight is nothing anywhere
        center = path[t] - low + mu[t, m]  # path[t] is where the pen is when the network speaks
        # Nor is one anything beyond five deviations.
        first, last = (np.clip(center + side * 5 * sigma[t, m], 0, counts * cell) // cell for side in (-1, 1))
        (left, upper), (right, lower) = first.astype(int), np.minimum(last.astype(int) + 1, counts)
        edges = np.arange(left, right + 1) * cell, np.arange(upper, lower + 1) * cell
        total[upper:lower, left:right] += weight[t, m] * cell_masses(center, sigma[t, m], rho[t, m], edges)
    return total / cell**2, (low[0], low[0] + counts[0] * cell, low[1] + counts[1] * cell, low[1])


def write_pictures(options: argparse.Namespace, lines: list[Line], model: Model) -> None:
    """Write the lines' picture, and beside it those of the window and of the densities, of the first line."""
    figures = {"": lines_figure([line.points for line in lines])}
    text = lines[0].text
    if options.attention:
        figures["_attention"] = Figure(figsize=(10, max(2.5, 0.16 * len(text))), layout="constrained")
        draw_attention(figures["_attention"].subplots(), lines[0].phi[:, :-1], text)
    if options.density:
        density, extent = density_map(model, lines[0], options.bias)
        figures["_density"] = Figure(figsize=(12, 12 * density.shape[0] / density.shape[1]))
        draw_density(figures["_density"].add_axes((0, 0, 1, 1)), density, extent)
    for suffix, figure in figures.items():
        path = options.output.with_stem(options.output.stem + suffix)
        save_figure(figure, path)
        print(f"wrote {path}")


def report_faults(options: argparse.Namespace, lines: list[Line]) -> None:
    """Tell which lines are wrong and why: as a note if they were to come as they are, else raise ResultError."""
    faults = [f"line {i} (seed {options.seed + i - 1}): {line.fault}" for i, line in enumerate(lines, 1) if line.fault]
    told = f"{'; '.join(faults)}; try another --seed, --bias or --steps"
    if faults and options.retries:
        raise ResultError(f"still wrong after {options.retries + 1} tries: {told}, or more --retries")
    if faults:
        print(f"note: {told}, or --retries", file=sys.stderr)


def make_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description="Write with a trained network: a text that you give, or at random.")
    add = parser.add_argument
    add("text", nargs="*", help="what to write, each text as a line; not with --task rand_write")
    add("--task", choices=("synthesis", "rand_write"), default="synthesis", help="default: %(default)s")
    add("--checkpoint", type=Path, help="the network, as train.py saves it (default: save/TASK.pt beside this script)")
    help_bias = "0: as varied as people write, 1 and more: even and legible (default: 0.5 for a text, 0 at random)"
    add("--bias", type=float, help=help_bias)
    add("--seed", type=int, default=0, help="same seed, same ink (default: %(default)s)")
    add("--samples", type=int, default=1, help="lines of each text, each with the next seed (default: %(default)s)")
    add("--steps", type=int, help="most steps of a line (default: 50 a character and 100, or 700 at random)")
    help_retries = "how often to write a line that is cut off, rests or cannot be read again (default: %(default)s)"
    add("--retries", type=int, default=RETRIES, help=help_retries + "; 0: lines as they come")
    add("--output", type=Path, help="picture to write, .png, .svg or .pdf (default: examples/TASK.png)")
    add("--attention", action="store_true", help="write a picture of the window over the text too (paper, figure 13)")
    add("--density", action="store_true", help="write a picture of the predicted densities too (paper, figure 10)")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    options = make_parser().parse_args(arguments)
    with_text = options.task == "synthesis"
    if with_text and not options.text:
        raise InputError('there is no text; give one: python generate.py "Some text"')
    if not with_text and options.text:
        raise InputError("--task rand_write writes at random and takes no text; leave one of them out")
    if not with_text and options.attention:
        raise InputError("--attention: a network that writes at random has no window over a text")
    options.output = options.output or Path("examples") / f"{options.task}.png"
    if options.output.suffix.lower() not in FORMATS:
        raise InputError(f"{options.output}: not a picture that can be written; name a .png, .svg or .pdf file")
    options.bias = (0.5 if with_text else 0.0) if options.bias is None else options.bias
    given = {name: getattr(options, name) for name in ("samples", "steps", "bias", "seed", "checkpoint", "retries")}
    given = {name: value for name, value in given.items() if value is not None}
    model, content = load_writer(options.checkpoint, options.task)
    if with_text:
        learned = learned_characters(content)
        told = [message for text in options.text for message in prepare_text(text, learned)[1]]
        for message in dict.fromkeys(told):
            print(f"note: {message}", file=sys.stderr)
    lines = generate_conditionally(options.text, **given) if with_text else generate_unconditionally(**given)
    if not all(len(line.outputs) for line in lines):
        raise InputError("the network wrote nothing: its window is beyond the text at once; train it longer")
    write_pictures(options, lines, model)
    report_faults(options, lines)


if __name__ == "__main__":
    run_cli(main)
