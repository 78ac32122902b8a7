"""The stations of a batch, as `generate.py --batch` calls them."""

from handwriting.bulk import done_rows, make_plans, save_inks, write_inks
from handwriting.writer import PAGE_BIAS, Writer


def write_many(texts, folder, ending, seed=0, style=None, bias=None, checkpoint=None, retries=3):
    """Write texts, each into a file of `folder`. Yields a row of the manifest for each."""
    writer = Writer(checkpoint, style, PAGE_BIAS, 0, retries)
    plans, _ = make_plans(texts, writer.network, seed, style, bias)
    done, plans = done_rows(folder, plans, ending, writer.network.hash)
    yield from save_inks(write_inks(plans, writer), folder, ending, writer.network.hash, done)
