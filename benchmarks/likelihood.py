"""What a line's loss hides: resting points, whole coordinates, and the deviation that offsets are divided by.

    python benchmarks/likelihood.py save/paper/rand_write.pt save/paper/synthesis.pt --data data/rests.npz

takes some minutes a network on one core, on the validation split and in float32. Each point is measured three times by
the same predictions: by its loss, a density (eq. 26); by that at a random place of its unit square, which is what the
loss would be of offsets that are not whole; and by the mass of the unit square around it, the nats of a code for whole
offsets. The second is at least the third, on the mean, whatever the density (Jensen); the third has no unit.
"""

import math
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))
from handwriting.data.dataset import load_dataset
from handwriting.program import InputError, Parser, run_cli
from handwriting.strokes import SHORTEST_STEP
from handwriting.training.tasks import Writing, make_batches, make_task
from model import LOSS_CHUNK, Mixture, Model, log_density, mixture, negative_log_likelihood, squared_error
from utils import encoder_of, load_checkpoint

KINDS = ("the pen has not moved", f"it moved less than {SHORTEST_STEP:g} units", "other steps", "first of a stroke")


def interval_masses(edges: Tensor) -> Tensor:
    """What a standard normal distribution has between two edges (..., 2), ascending: (...).

    Exact far out, where values of `torch.special.ndtr` do not differ: it takes the tail on the edge's own side.
    """
    is_right = (edges > 0).to(edges.dtype)
    return (torch.erfc(edges.abs() * 0.5**0.5).mul(0.5 - is_right).diff() + is_right.diff())[..., 0]


def cell_masses(x: Tensor, y: Tensor, rho: Tensor, nodes: int = 8) -> Tensor:
    """The probability of a cell under each of some bivariate normal distributions: (...).

    Its edges, x and y (..., 2), are in deviations from the mean; rho (...). It is the mean of what the cell has at
    `nodes` points of x, by their quantiles, so x must be the axis of the greater deviation.
    """
    share = interval_masses(x)[..., None]  # (..., 1)
    low, high = x[..., :1], x[..., 1:]
    side = torch.where(low + high > 0, -1.0, 1.0)  # a cell on the right is mirrored to the left
    beyond = torch.erfc(torch.where(side < 0, high, -low) * 0.5**0.5) / 2  # what is left of it then
    parts = (torch.arange(nodes, dtype=x.dtype) + 0.5) / nodes
    middles = (side * torch.special.ndtri(beyond + share * parts)).clamp(low, high)  # (..., nodes)
    rho = rho[..., None, None]
    shifted = (y[..., None, :] - rho * middles[..., None]) / (1 - rho**2).sqrt()  # given x, y is normal about rho x
    return interval_masses(shifted).mean(-1) * share[..., 0]


def square_code(mix: Mixture, offsets: Tensor, model: Model) -> Tensor:
    """Minus the log of the mass of the unit squares around offsets (..., 2) in whiteboard units, (...), in float64."""
    std, mean = model.std.double(), model.mean.double()
    mu, sigma = mix.mu.double() * std + mean, mix.log_sigma.double().exp() * std  # (..., M, 2)
    order = sigma.argsort(-1, descending=True)  # the axis of the greater deviation is x
    middle, deviation = (offsets.double()[..., None, :] - mu).gather(-1, order), sigma.gather(-1, order)
    sides = torch.tensor([-0.5, 0.5], dtype=torch.float64)
    x, y = ((middle[..., None] + sides) / deviation[..., None]).unbind(-2)  # (..., M, 2)
    masses = cell_masses(x, y, mix.atanh_rho.double().tanh())  # (..., M)
    return -torch.logsumexp(mix.log_pi.double() + masses.clamp(min=1e-300).log(), dim=-1)


@torch.no_grad()
def measure(model: Model, batch: tuple, generator: torch.Generator) -> Tensor:
    """Of all points of a batch, as `Model.losses` takes it, (N, 4) in float64: three times nats, and the squared error.

    The nats are those of the point, of a random place in its unit square, and of that square's mass.
    """
    raw, mask, text, hand = batch
    points = model.normalise(raw)
    hiddens, _, _ = model.run_layers(points[:-1], None if text is None else model.one_hot(text), hand=hand)
    moved = raw + torch.rand(raw.shape, generator=generator) - 0.5
    parts = zip(*(each.split(LOSS_CHUNK) for each in (points[1:], raw[1:], moved[1:], mask, *hiddens)), strict=True)
    found = []
    for targets, offsets, others, inside, *hidden in parts:
        mix = Mixture(*(parameter[inside] for parameter in mixture(model.run_head(hidden))))  # (n, ...)
        targets, offsets, others = targets[inside], offsets[inside, :2], model.normalise(others[inside])[:, :2]
        loss, density = negative_log_likelihood(mix, targets), log_density(mix, targets[:, :2])
        pen, error = loss + density, squared_error(mix, targets)
        values = loss, pen - log_density(mix, others), pen + square_code(mix, offsets, model), error
        found.append(torch.stack([value.double() for value in values], dim=1))
    return torch.cat(found)


def kinds_of(raw: Tensor, mask: Tensor) -> Tensor:
    """Places in `KINDS` of the points that `measure` measures, in its order: (N,), for points (T + 1, B, 3)."""
    length = raw[1:, :, :2].norm(dim=-1)
    kind = torch.where(length == 0, 0, torch.where(length < SHORTEST_STEP, 1, 2))
    kind = torch.where(raw[:-1, :, 2] > 0.5, 3, kind)
    parts = zip(kind.split(LOSS_CHUNK), mask.split(LOSS_CHUNK), strict=True)
    return torch.cat([part[inside] for part, inside in parts])


def measure_lines(model: Model, task: Writing, lines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What `measure` measures (N, 4), and the kinds (N,), of all predicted points of lines (B,)."""
    figures, kinds, generator = [], [], torch.Generator().manual_seed(0)
    for numbers in make_batches(task.num_points[lines], 50):
        batch = task.batch(lines[numbers], torch.device("cpu"))
        figures.append(measure(model, batch, generator))
        kinds.append(kinds_of(*batch[:2]))
    return torch.cat(figures).numpy(), torch.cat(kinds).numpy()


def report(figures: np.ndarray, kinds: np.ndarray, lines: int, scale: float) -> list[str]:
    """The lines of the tables, for figures and kinds as of `measure_lines` and the log of the deviations' product."""
    count = len(figures)
    loss, moved, code, error = figures.sum(0)
    wider = 2 * math.log(1.01) * count / lines
    rows = [
        f"{count / lines:.1f} points a line, {loss / count:.4f} nats a point, {loss / count + scale:.4f} in whiteboard "
        f"units; SSE {error / count:.4f}, mean of the axes {error / count / 2:.4f}",
        f"| the loss | {loss / lines:.2f} nats a line |",
        f"| divided by a deviation 1 % larger | {loss / lines - wider:.2f} nats a line |",
        f"| without the points where the pen rests | {figures[kinds > 1, 0].sum() / lines:.2f} nats a line |",
        f"| at random places of the unit squares | {moved / lines:.2f} nats a line |",
        f"| a code of whole offsets | {code / lines:.2f} nats a line, {code / count:.4f} nats a point, "
        f"{code / count / math.log(2):.4f} bits a point |",
        "| points | share | loss, a line | a point | at random places, a line | code, a line | a point | of the SSE |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for number, name in enumerate(KINDS):
        own = figures[kinds == number]
        sums, number = own.sum(0), max(len(own), 1)
        rows.append(
            f"| {name} | {len(own) / count:.1%} | {sums[0] / lines:.1f} | {sums[0] / number:.2f} | "
            f"{sums[1] / lines:.1f} | {sums[2] / lines:.1f} | {sums[2] / number:.2f} | {sums[3] / error:.1%} |"
        )
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Measure the checkpoints, one after the other."""
    parser = Parser(description="What a line's loss hides.")
    parser.add_argument("checkpoint", type=Path, nargs="+", help="networks that write")
    parser.add_argument("--data", type=Path, default=Path("data/rests.npz"), help="prepared data")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="measure every N-th line only")
    options = parser.parse_args(arguments)
    dataset = load_dataset(options.data)
    for path in options.checkpoint:
        model, content = load_checkpoint(path)
        task = make_task(content["task"], dataset, charset=content["charset"], encoder=encoder_of(content))
        if not (isinstance(model, Model) and isinstance(task, Writing)):
            raise InputError(f"{path}: is no network that writes")
        lines = dataset.lines("validation", task.with_text)[:: max(options.every, 1)]
        if not len(lines):
            raise InputError(f"{options.data}: its validation split holds no line for {path}")
        figures, kinds = measure_lines(model.eval(), task, lines)
        print(f"{path}, {len(lines)} lines of {options.data} ({dataset.rests}):")
        print("\n".join(report(figures, kinds, len(lines), model.std.log().sum().item())), flush=True)


if __name__ == "__main__":
    run_cli(main)
