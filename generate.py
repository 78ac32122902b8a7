"""Write with a trained network: a text that you give, or at random.

    python generate.py "Some text"
    python generate.py "A line." "Another line."
    python generate.py --task rand_write

From Python: `generate_conditionally` and `generate_unconditionally`.
"""

import argparse
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

from checks import check_lines
from model import POINTS_PER_CHARACTER, Mixture, Model, mixture
from sampling import Line, Sampler
from utils import (
    Alphabet,
    InputError,
    ResultError,
    draw_attention,
    draw_density,
    lines_figure,
    load_checkpoint,
    note,
    run_cli,
    save_figure,
)

FORMATS = (".png", ".svg", ".pdf")
SHIPPED = Path(__file__).parent / "save"
RETRIES = 3  # how often a line that is wrong is written again


class Network(NamedTuple):
    """A trained network, ready to write."""

    model: Model
    sampler: Sampler
    alphabet: Alphabet


@lru_cache(maxsize=4)
def _load(path: Path, modified: int) -> Network:
    model, content = load_checkpoint(path)
    return Network(model, Sampler(model), Alphabet(content["charset"], content["char_counts"]))


def load_writer(checkpoint: Path | str | None, task: str) -> Network:
    """The network in `checkpoint`, by default the one that this project ships, kept in memory between calls.

    Raises InputError if it cannot be read or was not trained for `task`.
    """
    path = SHIPPED / f"{task}.pt" if checkpoint is None else Path(checkpoint)
    network = _load(path, path.stat().st_mtime_ns if path.is_file() else 0)
    if bool(network.model.config.num_chars) != (task == "synthesis"):
        raise InputError(f"{path}: a network of the other task; {task} is what was asked for")
    return network


def derived_seed(seed: int, attempt: int) -> int:
    """The seed of a line's try number `attempt`, from 0: at first its own, then one that no other line is likely to."""
    words = np.random.SeedSequence([seed, attempt]).generate_state(1, np.uint64)
    return int(words[0] >> 1) if attempt else seed


def write_checked(
    network: Network, texts: list[str] | None, seeds: list[int], bias: float, steps: list[int], retries: int,
    with_outputs: bool,
) -> list[Line]:  # fmt: skip
    """`Sampler.write`, and those lines again that are wrong, up to `retries` times; of a line's tries the best is kept.

    Without `retries` nobody reads the lines: they come as they are, and `Line.fault` knows of caps and rests only.
    """
    best = {}  # of each line: (its verdict, the line)
    wrong = list(range(len(seeds)))
    for attempt in range(retries + 1):
        codes = None if texts is None else [network.alphabet.encode(texts[i]) for i in wrong]
        attempt_seeds = [derived_seed(seeds[i], attempt) for i in wrong]
        lines = network.sampler.write(codes, attempt_seeds, bias, [steps[i] for i in wrong], with_outputs)
        if texts is not None:
            lines = [replace(line, text=texts[i]) for i, line in zip(wrong, lines, strict=True)]
        for i, verdict, line in zip(wrong, check_lines(lines, with_reader=retries > 0), lines, strict=True):
            if i not in best or verdict.badness < best[i][0].badness:
                best[i] = verdict, line
        wrong = [i for i in wrong if best[i][0].fault]
        if not wrong:
            break
    return [replace(line, fault=verdict.fault) for _, (verdict, line) in sorted(best.items())]


def generate_unconditionally(
    samples: int = 1, steps: int = 700, bias: float = 0.0, seed: int = 0, checkpoint: Path | str | None = None,
    retries: int = RETRIES, with_outputs: bool = False,
) -> list[Line]:  # fmt: skip
    """Write at random (section 4): `samples` lines of `steps` steps each, the shipped network's by default.

    `bias` >= 0 makes the hand more even (section 5.4). Line number i has the seed `seed` + i: the same seed gives the
    same ink. A line in which the pen rests is written again with seeds derived from its own, up to `retries` times;
    what is still wrong then is in `Line.fault`. `with_outputs` keeps what the network said at each point, some 120
    numbers. Raises InputError (a ValueError) for a checkpoint that cannot be used and for numbers out of range.
    """
    _check_numbers(samples, steps, bias, seed, retries)
    network = load_writer(checkpoint, "rand_write")
    seeds = [seed + i for i in range(samples)]
    return write_checked(network, None, seeds, bias, [steps] * samples, retries, with_outputs)


def generate_conditionally(
    text: str | list[str], samples: int = 1, steps: int | None = None, bias: float = 0.5, seed: int = 0,
    checkpoint: Path | str | None = None, retries: int = RETRIES, with_outputs: bool = False,
) -> list[Line]:  # fmt: skip
    """Write a text, or each of several (section 5), `samples` times; each line holds its window weights too.

    The text that is written is what `Alphabet.prepare` makes of `text`, see `Line.text`. `steps` is the most steps of a
    line, by default plenty for its text; the others and the errors are as for `generate_unconditionally`, and
    characters that the network never learned are an InputError that names them. Lines are written again, too, if
    `steps` cut them off or the reader cannot read them; with `retries` 0 they are not read.
    """
    network = load_writer(checkpoint, "synthesis")
    prepared = [network.alphabet.prepare(t)[0] for t in ([text] if isinstance(text, str) else text)]
    longest = max(map(default_steps, prepared), default=1)
    _check_numbers(samples, longest if steps is None else steps, bias, seed, retries)
    texts = [t for t in prepared for _ in range(samples)]
    caps = [default_steps(t) if steps is None else steps for t in texts]
    return write_checked(network, texts, [seed + i for i in range(len(texts))], bias, caps, retries, with_outputs)


def default_steps(text: str) -> int:
    """The cap on the steps of a text: twice what its characters take on average, and some for a slow start."""
    return 2 * POINTS_PER_CHARACTER * len(text) + 100


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

    As in the paper's figure 10, for a line with its outputs. Each cell has the mass that falls into it, see
    `cell_masses`, by its area. Returns (rows, columns), per square whiteboard unit, and the
    extent (left, right, bottom, top), y downwards.
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
    message = f"{'; '.join(faults)}; try another --seed, --bias or --steps"
    if faults and options.retries:
        raise ResultError(f"still wrong after {options.retries + 1} tries: {message}, or more --retries")
    if faults:
        note(f"{message}, or --retries")


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
    given["with_outputs"] = options.density
    network = load_writer(options.checkpoint, options.task)
    if with_text:
        replaced = [message for text in options.text for message in network.alphabet.prepare(text)[1]]
        for message in dict.fromkeys(replaced):
            note(message)
    lines = generate_conditionally(options.text, **given) if with_text else generate_unconditionally(**given)
    if not all(len(line.points) > 1 for line in lines):
        raise InputError("the network wrote nothing: its window is beyond the text at once; train it longer")
    write_pictures(options, lines, network.model)
    report_faults(options, lines)


if __name__ == "__main__":
    run_cli(main)
