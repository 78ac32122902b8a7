"""Figures as the paper has them: the window over the text, densities of the next point. A plotter's way, and proofs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from handwriting.ink.formats import Page
from handwriting.ink.gcode import Plotter, travel_moves
from handwriting.ink.pictures import Drawing, draw_lines, page_figure
from handwriting.program import InputError, atomic_write
from handwriting.sampling import Line
from model import Mixture, Model, mixture

if TYPE_CHECKING:  # matplotlib takes a second to import
    from matplotlib.figure import Figure

TRAVEL = "#d1495b"  # the colour of moves with the pen up
CELL, BLUR = 4.0, 0.6  # of a map of densities: whiteboard units, and cells
MAX_CELLS = 10**7  # a long line has some 300,000


def attention_figure(line: Line) -> Figure:
    """The window over a line's text, phi of (eq. 46), as in the paper's figure 13."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, max(2.5, 0.16 * len(line.text))), layout="constrained")
    axes = figure.subplots()
    axes.imshow(np.asarray(line.phi)[:, :-1].T, aspect="auto", origin="lower", cmap="inferno", interpolation="nearest")
    axes.set_yticks(range(len(line.text)), list(line.text.replace(" ", "\u2423")), fontsize=7)
    axes.set(xlabel="point", ylabel="character")
    return figure


def density_figure(model: Model, line: Line, bias: float) -> Figure:
    """The densities of a line with its outputs, as in the paper's figure 10; colours follow their fourth root."""
    from matplotlib.figure import Figure

    density, extent = density_map(model, line, bias)
    figure = Figure(figsize=(12, 12 * density.shape[0] / density.shape[1]))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(density**0.25, extent=extent, cmap="inferno", aspect="equal", interpolation="bilinear")
    axes.axis("off")
    return figure


def travel_figure(page: Page, drawing: Drawing, plotter: Plotter) -> Figure:
    """A page as a plotter draws it, with the way of the pen from stroke to stroke, from zero and back to it."""
    sheet = page.sheet(drawing.simplify)
    figure = page_figure(sheet, drawing)
    strokes = [stroke for _, strokes in sheet.groups for stroke in strokes]
    draw_lines(figure, travel_moves(strokes, plotter.zero(sheet.width, sheet.height)), TRAVEL, 0.15)
    return figure


def proof_figure(page: Page, first: int) -> Figure:
    """A page to be looked over: its lines numbered from `first`, and a frame around words that a recogniser doubts."""
    frames, figure = [], page_figure(page.sheet(), Drawing())
    for number, (ink, strokes) in enumerate(page.lines, first):
        characters, points = np.asarray(ink.characters), np.concatenate(strokes)
        for word in re.finditer(r"\S+", ink.text):
            own = points[(characters >= word.start()) & (characters < word.end())]
            if len(own) and any(word.start() <= place < word.end() for place in ink.doubts):
                (left, top), (right, bottom) = own.min(0) - 0.5, own.max(0) + 0.5
                frames.append(np.array([[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]))
        x, y = 1.0 / page.width, 1 - points[:, 1].mean() / page.height
        colour = "red" if ink.fault or ink.doubts else "grey"
        figure.text(x, y, str(number), color=colour, fontsize=7, verticalalignment="center")
    if frames:
        draw_lines(figure, frames, "red", 0.2)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as the ending of `path` says, with at most 60,000 pixels along a side and 50 million in all."""
    from matplotlib import rc_context

    width, height = figure.get_size_inches()
    dpi = min(150, 60_000 / max(width, height), (5e7 / (width * height)) ** 0.5)
    kind = path.suffix.lower().lstrip(".")
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with atomic_write(path) as file, rc_context({"svg.hashsalt": "ink"}):
        figure.savefig(file, format=kind, dpi=dpi, metadata=dates.get(kind))


def density_map(model: Model, line: Line, bias: float) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """The densities of the next pen position, added up over the line, in cells of `CELL` whiteboard units.

    They are blurred by `BLUR` cells: many are narrower than a cell. Returns (rows, columns), per square whiteboard
    unit, and the extent (left, right, bottom, top), y downwards. Raises InputError for ink that is too wide.
    """
    path = np.cumsum(line.points[:, :2], axis=0, dtype=np.float64)  # (T + 1, 2)
    low, high = path.min(0) - 80, path.max(0) + 80
    counts = np.ceil((high - low) / CELL)  # columns, rows
    if not counts.prod() <= MAX_CELLS:  # true for NaN
        raise InputError("the ink is too wide for a picture of densities; leave --density out, or try another --seed")
    counts = counts.astype(int)
    total = np.zeros(counts[::-1])
    mix = Mixture(*(p.double() for p in mixture(torch.from_numpy(line.outputs), bias)))
    std, mean = (statistic.double().cpu().numpy() for statistic in (model.std, model.mean))
    mu, sigma = mix.mu.numpy() * std + mean, mix.log_sigma.exp().numpy() * std  # (T, M, 2), whiteboard units
    weight, shared = mix.log_pi.exp().numpy(), mix.atanh_rho.tanh().numpy() * sigma.prod(-1)  # (T, M)
    variance = sigma**2 + (BLUR * CELL) ** 2
    for t, m in np.argwhere(weight > 1e-4):  # one with next to no weight is nothing anywhere
        center = path[t] - low + mu[t, m]  # path[t] is where the pen is when the network speaks
        reach = 5 * variance[t, m] ** 0.5  # nor is one anything beyond five deviations
        first, last = (np.clip((center + side * reach) // CELL, 0, counts).astype(int) for side in (-1, 1))
        x, y = ((np.arange(*ends) + 0.5) * CELL - middle for *ends, middle in zip(first, last, center, strict=True))
        (a, b), c = variance[t, m], shared[t, m]
        square = (b * x**2 - 2 * c * x * y[:, None] + a * y[:, None] ** 2) / (a * b - c**2)
        density = np.exp(-square / 2) / (2 * np.pi * (a * b - c**2) ** 0.5)
        total[first[1] : last[1], first[0] : last[0]] += weight[t, m] * density
    return total, (low[0], low[0] + counts[0] * CELL, low[1] + counts[1] * CELL, low[1])
