"""benchmarks/steering.py: how a network is made to follow hands, and its own hands legible."""

import numpy as np
import pytest
import torch
from conftest import make_dataset

from benchmarks import steering
from handwriting.hands import steer
from handwriting.program import InputError
from handwriting.writer import Writer
from utils import encoder_of, load_checkpoint


def test_a_ridge_regression_is_the_least_squares_of_more_rows():
    """A ridge is as many rows more that ask for nothing: NumPy's own least squares with them."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 4)), rng.normal(size=(50, 3))
    wanted = np.linalg.lstsq(
        np.vstack([x, np.sqrt(steering.RIDGE) * np.eye(4)]), np.vstack([y, np.zeros((4, 3))]), rcond=None
    )[0]
    np.testing.assert_allclose(steering.regress(x, y), wanted, atol=1e-12)


def test_steered_hands_come_out_where_they_are_wanted():
    """A network that shrinks hands, and adds something to each: steered, its lines are on the mean where hands are.

    Of two lines each number says as much of the others as it varies from form to form.
    """
    rng, mean = np.random.default_rng(1), np.array([0.1, -0.2, 0.3])
    hands, added = mean + rng.normal(size=(40_000, 3)), np.array([0.2, 0.0, -0.1])
    written = steering.Written(mean + 0.8 * (hands - mean) + added, 0.1 + 0.02 * hands[:, 1])
    own = np.array([1.0, 0.5, 0.1])  # the deviation from form to form; that of two lines in a form is 0.5
    others = mean + own * rng.normal(size=(40_000, 3))
    pairs = others + 0.5 * rng.normal(size=(40_000, 3)), others
    found = steering.find_steering(hands, written, pairs, mean)
    np.testing.assert_allclose(found[:-1], steering.GAIN * np.diag(own**2 / (own**2 + 0.25)), atol=0.05)
    legible = np.array([0, steering.FEWER / 0.02, 0])  # hands vary alike in all numbers, and only one counts
    wanted = (hands.mean(0) - written.vectors.mean(0)) / 0.8 - legible
    np.testing.assert_allclose(found[-1], wanted, atol=0.1)


def test_a_network_is_steered_once(checkpoints, data_file, tmp_path, monkeypatch, capsys):
    """All but steering and forms is as before, and what is given for a hand is what the file says."""
    output = tmp_path / "new" / "steered.pt"
    monkeypatch.setattr(steering, "default_steps", lambda text: 20)
    vectors = np.random.default_rng(0).normal(size=(2, 12, 4))
    monkeypatch.setattr(steering, "pairs_of_forms", lambda *_: vectors)
    steering.main(["--checkpoint", str(checkpoints / "hands.pt"), "--data", str(data_file), "--output", str(output)])
    assert "in the hands of 6 forms " in capsys.readouterr().out
    (before, old), (after, new) = map(load_checkpoint, (checkpoints / "hands.pt", output))
    for name, value in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], value, rtol=1e-3, atol=1e-6)
    assert new["charset"] == old["charset"] and new["encoder"]["forms"].shape == old["encoder"]["forms"].shape
    hand, mean, encoder = vectors[0, 0], after.hand_mean.numpy(), encoder_of(new)
    wanted = [mean[d] + sum((hand[n] - mean[n]) * encoder.steering[n, d] for n in range(4)) for d in range(4)]
    np.testing.assert_allclose(steer(hand, after, encoder), wanted + encoder.steering[-1].numpy(), atol=1e-5)
    np.testing.assert_allclose(steer(hand, before, encoder_of(old)), mean + 1.25 * (hand - mean), atol=1e-5)
    assert Writer(output, retries=0).write("abc").points.shape[1] == 3
    for wrong, told in ((output, "steered already"), (checkpoints / "synthesis.pt", "reads no hands")):
        with pytest.raises(InputError, match=told):
            steering.main(["--checkpoint", str(wrong), "--data", str(data_file), "--output", str(tmp_path / "no.pt")])


def test_a_form_tells_its_hand_by_two_lines():
    dataset = make_dataset()

    class Encoder:
        def encode(self, lines):
            return np.array([[len(line), line[:, 0].sum()] for line in lines], dtype=float)

    names = np.array([f"a01-{n // 5:03}-{n % 5:02}" for n in range(len(dataset.names))])
    object.__setattr__(dataset, "names", names)
    first, others = steering.pairs_of_forms(dataset, Encoder())
    lines = dataset.lines("train", with_text=False)
    own = lines[np.char.startswith(names[lines], names[lines[0]][:7])]
    points = [dataset.points(line) for line in own]
    np.testing.assert_allclose(first[0], np.mean([[len(p), p[:, 0].sum()] for p in points[:2]], axis=0))
    np.testing.assert_allclose(others[0], np.mean([[len(p), p[:, 0].sum()] for p in points[2:]], axis=0))
