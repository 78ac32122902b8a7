"""benchmarks/speed.py: that the textbook version, which ours is timed against, does the same work."""

import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, make_dataset

sys.path.append(str(ROOT / "benchmarks"))
import speed

from model import mixture, negative_log_likelihood


class Says(speed.Textbook):
    """A textbook network that always says the same."""

    def forward(self, x, characters, state=None):
        return self.said, state


@pytest.mark.parametrize("task", ["synthesis", "rand_write"])
def test_the_textbook_learns_from_a_batch_and_has_our_loss(task, monkeypatch):
    given = []
    monkeypatch.setattr(speed.Textbook, "loss", lambda self, *batch: given.append(batch) or self.head.bias.sum())
    speed.textbook_trainer(task, make_dataset())(np.arange(3))
    ((points, mask, characters),) = given
    assert len(points) == speed.TIMESTEPS + 1 and (characters is None) == (task == "rand_write")
    monkeypatch.undo()
    textbook = Says(0 if characters is None else characters.shape[2])
    textbook.said = torch.randn(*mask.shape, 121, generator=torch.Generator().manual_seed(0))
    wanted = (negative_log_likelihood(mixture(textbook.said), points[1:]) * mask).sum() / 3
    assert textbook.loss(points, mask, characters).item() == pytest.approx(wanted.item(), rel=1e-3)
