"""The recogniser of ink: features, padding, its loss, its alignment, and that it learns to read made-up ink."""

import itertools

import numpy as np
import pytest
import torch

from handwriting import recogniser as recogniser
from handwriting.checks import load_recogniser
from handwriting.program import InputError
from handwriting.recogniser import Recogniser, RecogniserConfig, align, collate_features, features
from handwriting.writer import load_network
from model import Config, Model
from utils import save_checkpoint

CHARSET = "abc"


def make_recogniser() -> Recogniser:
    torch.manual_seed(0)
    return Recogniser(RecogniserConfig(CHARSET, num_layers=2, cell_size=6, channels=8)).eval()


def make_ink(seed: int = 0, length: int = 60) -> np.ndarray:
    """Points (T, 3) that wave from left to right, lifted now and then."""
    rng = np.random.default_rng(seed)
    wave = np.column_stack([rng.uniform(5, 30, length), 40 * np.sin(np.arange(length)) + rng.normal(0, 5, length)])
    return np.column_stack([wave, np.arange(length) % 13 == 12]).astype(np.float32)


# ------------------------------------------------------------------------------------------------------------ features


def test_features_do_not_depend_on_size_place_and_slope():
    ink = make_ink()
    plain = features(ink)
    moved = ink.copy()
    moved[0, :2] += [500, -300]
    moved[:, :2] *= 3
    np.testing.assert_allclose(features(moved), plain, atol=1e-3)
    positions = np.cumsum(ink[:, :2], axis=0, dtype=np.float64)
    positions[:, 1] += 0.1 * positions[:, 0]
    sloping = np.column_stack([np.diff(positions, axis=0, prepend=0), ink[:, 2]]).astype(np.float32)
    np.testing.assert_allclose(features(sloping), plain, atol=1e-3)


def test_features_follow_the_path_at_equal_steps():
    ink = make_ink()
    found = features(ink)
    assert found.shape[1] == recogniser.FEATURES and found[:, 5].sum() == (ink[:-1, 2] > 0).sum() + 1
    within = found[found[:, 5] == 0, :2]
    assert np.hypot(*within.T).max() < 1.5  # a chord is shorter than its arc; a short stroke is one step
    heights = np.concatenate(recogniser.straighten(recogniser.to_strokes(ink)))[:, 1]
    assert heights.std() == pytest.approx(1) and heights.mean() == pytest.approx(0, abs=1e-9)


def test_resampling_keeps_the_ends_and_the_path():
    corner = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 2.0]])
    np.testing.assert_allclose(recogniser.resample(corner, 0.5)[:, 0], [0, 0.5, 1, 1, 1, 1, 1])
    np.testing.assert_allclose(recogniser.resample(corner, 0.5)[:, 1], [0, 0, 0, 0.5, 1, 1.5, 2])
    assert features(np.array([[3.0, 4.0, 1.0]])).tolist() == [[0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0]]  # a dot


@pytest.mark.parametrize("step", [0.01, 1e4])
def test_flat_ink_does_not_make_points_without_end(step):
    flat = np.array([[0, 0, 0], [step, 0, 0], [step, 1e-9, 1]], dtype=np.float32)
    assert 2 <= len(features(flat)) <= recogniser.MAX_POINTS + 10


def test_distorted_ink_follows_from_its_seed():
    first, again, other = (features(make_ink(), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert first.shape != other.shape or not np.allclose(first, other)


# ------------------------------------------------------------------------------------------------------------- network


@torch.no_grad()
def test_padding_and_neighbours_change_nothing():
    model = make_recogniser()
    lines = [features(make_ink(seed, length)) for seed, length in enumerate((60, 9, 33, 2))]
    together, frames = model(*collate_features(lines))
    for b, line in enumerate(lines):
        alone, (count,) = model(*collate_features([line]))
        assert frames[b] == count == len(alone)
        torch.testing.assert_close(together[:count, b], alone[:, 0])


@torch.no_grad()
def test_a_frame_sees_the_line_to_both_ends():
    model, line = make_recogniser().double(), features(make_ink()).astype(np.float64)
    plain, _ = model(*collate_features([line]))
    for place, seen in ((0, -1), (-1, 0)):
        changed = line.copy()
        changed[place] += 1
        assert not torch.equal(model(*collate_features([changed]))[0][seen], plain[seen])


def test_loss_is_minus_the_log_of_all_ways_to_write_the_text():
    model = make_recogniser().double()
    x, lengths = collate_features([features(make_ink(1, 9)), features(make_ink(2, 8))])
    texts = [[0, 0], [2]]
    text = torch.tensor([[0, 0], [2, -1]])
    log_probabilities, frames = model(x.double(), lengths)
    for b, codes in enumerate(texts):
        total, count = 0.0, frames[b].item()
        for path in itertools.product(range(4), repeat=count):
            merged = [label for label, _ in itertools.groupby(path)]
            if [label - 1 for label in merged if label] == codes:
                total += np.exp(sum(log_probabilities[s, b, label].item() for s, label in enumerate(path)))
        assert model.losses(log_probabilities, frames, text)[b].item() == pytest.approx(-np.log(total), rel=1e-6)


def test_a_text_too_long_for_its_ink_teaches_nothing_and_counts():
    model, text = make_recogniser(), torch.tensor([[0, 1, 2, 0, 1, 2, 0, 1, 2]])
    inputs = collate_features([features(make_ink(1, 4))])
    assert model.losses(*model(*inputs), text).item() == np.inf
    assert model.train().losses(*model(*inputs), text).item() == 0


def test_best_path_takes_out_repeats_and_blanks():
    labels = torch.tensor([[0, 1, 1, 0, 1, 3], [2, 2, 2, 1, 1, 1]]).T  # (S, B)
    texts = make_recogniser().texts_of(torch.nn.functional.one_hot(labels, 4).float(), torch.tensor([6, 4]))
    assert texts == ["aac", "ba"]


def test_it_learns_to_read_and_comes_back_from_its_file(tmp_path):
    """Three made-up letters: a wave, a zigzag to the left, a dash."""
    shapes = {"a": 3 * [[9, 30], [9, -30]], "b": 3 * [[30, 20], [-25, 20]], "c": 6 * [[20, 0]]}
    rng = np.random.default_rng(0)

    def write(text: str) -> np.ndarray:
        parts = [np.column_stack([shapes[c], [0] * (len(shapes[c]) - 1) + [1]]) for c in text]
        ink = np.concatenate(parts).astype(np.float32)
        ink[:, :2] += rng.normal(0, 1, ink[:, :2].shape)
        return ink

    torch.manual_seed(0)
    model = Recogniser(RecogniserConfig(CHARSET, num_layers=1, cell_size=24, channels=16, dropout=0.0))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(400):
        texts = ["".join(rng.choice(list(CHARSET), 5)) for _ in range(16)]
        codes = torch.tensor([[CHARSET.index(c) for c in text] for text in texts])
        found = model(*collate_features([features(write(text)) for text in texts]))
        loss = model.losses(*found, codes).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_checkpoint(tmp_path / "recogniser.pt", model, CHARSET, [1, 1, 1], half=True, task="read")
    texts = ["abc", "ccab", "bacba", "abab"]
    found = load_recogniser(tmp_path / "recogniser.pt").read([write(text) for text in texts])
    errors = sum(a != b for text, read in zip(texts, found, strict=True) for a, b in align(text, read))
    assert errors <= 3, found  # of 16 characters


def test_ink_that_is_none_reads_as_nothing():
    model = make_recogniser()
    broken = make_ink()
    broken[3, 0] = np.nan
    assert model.read([make_ink()[:0], broken]) == ["", ""] and model.read([]) == []
    assert all(isinstance(text, str) for text in model.read([make_ink()[:1], make_ink()]))


def test_lines_of_many_lengths_are_read_as_alone_in_few_sizes(monkeypatch):
    """PyTorch keeps some memory for each size that it meets."""
    network, lines = make_recogniser(), [make_ink(n, 40 + n) for n in range(30)]
    alone = [network.texts_of(*network(*collate_features([features(line)])))[0] for line in lines]
    sizes, forward = set(), Recogniser.forward
    monkeypatch.setattr(Recogniser, "forward", lambda self, x, lengths: sizes.add(x.shape) or forward(self, x, lengths))
    assert [network.read([line])[0] for line in lines] == alone
    assert len({len(features(line)) for line in lines}) > 20
    assert len(sizes) < 10


def test_networks_that_read_and_that_write_are_not_taken_for_each_other(tmp_path):
    save_checkpoint(tmp_path / "synthesis.pt", Model(Config(cell_size=4, num_chars=3)), CHARSET, [1] * 3, "synthesis")
    with pytest.raises(InputError, match=r"synthesis\.pt.*not a recogniser"):
        load_recogniser(tmp_path / "synthesis.pt")
    save_checkpoint(tmp_path / "recogniser.pt", make_recogniser(), CHARSET, [1] * 3, task="read")
    with pytest.raises(InputError, match=r"recogniser\.pt.*is a recogniser"):
        load_network(tmp_path / "recogniser.pt", "synthesis")
    with pytest.raises(InputError, match="no such"):
        load_recogniser(tmp_path / "none.pt")


# ----------------------------------------------------------------------------------------------------------- alignment


@pytest.mark.parametrize(
    ("text", "read", "distance"),
    [("", "", 0), ("abc", "abc", 0), ("abc", "", 3), ("", "ab", 2), ("kitten", "sitting", 3), ("flaw", "lawn", 2)],
)
def test_alignment_has_the_edit_distance(text, read, distance):
    pairs = align(text, read)
    assert sum(a != b for a, b in pairs) == distance
    assert "".join(a for a, _ in pairs) == text and "".join(b for _, b in pairs) == read
