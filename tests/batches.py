"""The stations of a batch, as `generate.py --batch` calls them."""

from handwriting.bulk import Form, make_plans, write_all
from handwriting.limits import PAGE_BIAS
from handwriting.writer import Writer


def write_many(texts, folder, ending, seed=0, style=None, bias=None, checkpoint=None, retries=3, processes=1, **form):
    """Write texts, each into a file of `folder`. Yields a row of the manifest for each."""
    writer = Writer(checkpoint, style, PAGE_BIAS, 0, retries)
    plans, _ = make_plans(texts, writer.network, seed, style, bias)
    yield from write_all(plans, writer, folder, Form(ending, **form), processes)
