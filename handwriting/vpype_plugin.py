"""A generator for vpype (https://vpype.readthedocs.io): `vpype handwriting "Some text" write text.svg`."""

import click
import vpype
from vpype_cli import generator

from handwriting.limits import LINE_BIAS
from handwriting.program import InputError
from handwriting.writer import Writer


@click.command()
@click.argument("text")
@click.option("--style", help="A hand, or a file of ink, as for generate.py.")
@click.option("--bias", type=float, default=LINE_BIAS, help="0: as varied as people write, 1: even and legible.")
@click.option("--seed", type=int, default=0, help="Same seed, same ink.")
@generator
def handwriting(text: str, style: str | None, bias: float, seed: int) -> vpype.LineCollection:
    """Write TEXT as a line of handwriting, a path for each stroke in the order of writing, 2.5 mm letters."""
    try:
        sheet = Writer(style=style, bias=bias, seed=seed).write(text).page().sheet()
    except InputError as error:
        raise click.ClickException(str(error)) from None
    unit = vpype.convert_length("1mm")
    return vpype.LineCollection([unit * (stroke @ [1, 1j]) for _, strokes in sheet.groups for stroke in strokes])
