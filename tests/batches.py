"""The stations of a batch, as `generate.py --batch` calls them."""

from handwriting.bulk import done_rows, make_plans, make_writers, save_inks, write_inks
from handwriting.writer import load_network


def write_many(texts, folder, ending, seed=0, style=None, bias=None, checkpoint=None, retries=3):
    """Write texts, each into a file of `folder`. Yields a row of the manifest for each."""
    network = load_network(checkpoint, "synthesis")
    plans, _ = make_plans(texts, network, seed, style, bias)
    done, plans = done_rows(folder, plans, ending, network.hash)
    inks = write_inks(plans, make_writers(plans, checkpoint, retries))
    yield from save_inks(inks, folder, ending, network.hash, done)
