"""What can be asked for, and what is usual: numbers that the command line tells, too, before PyTorch is imported."""

from handwriting.program import check_range

RETRIES = 7  # how often, at most, a line that is wrong is written again
LINE_BIAS = 0.5  # of lines
PAGE_BIAS = 0.75  # of pages and of `Writer`
MOST_ATTEMPTS = 1000  # that a user can ask for
RANGES = {
    "samples": (1, 10_000), "steps": (1, 100_000), "bias": (0, 100), "seed": (0, 2**62), "retries": (0, 100),
    "strength": (0, 10),
}  # fmt: skip


def check_numbers(**given: float | None) -> None:
    """Raise InputError for a number out of its range; None stands for a default."""
    for name, value in given.items():
        check_range(name, value, *RANGES[name])
