"""The sampler against the mixture's distribution, and lines alone against lines side by side."""

import os
import warnings
from itertools import count
from threading import Event, Thread, get_ident

import numpy as np
import pytest
import torch
from test_model import ASTRAY, astray, make_model, reference_distribution

from handwriting import sampling
from handwriting.ink.formats import Ink, stack_lines
from handwriting.sampling import sample_noise, sample_points
from model import Window, window_weights


def sample(model, *arguments):
    """The lines of a sampler, with the network's outputs."""
    return sampling.Sampler(model).write(*arguments, with_outputs=True)


@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_points_are_sampled_from_the_mixture(bias):
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(1, 1 + 6 * 4, dtype=torch.float64, generator=generator)
    count = 200_000
    noise = sample_noise([generator], [bias], count, 4)[:, 0]
    drawn = torch.from_numpy(sample_points(outputs.expand(count, -1).numpy(), noise))
    reference = reference_distribution(outputs, bias)
    torch.manual_seed(0)
    expected = reference.sample((count,))[:, 0]
    torch.testing.assert_close(drawn[:, :2].mean(0), reference.mean[0], atol=0.02, rtol=0)
    torch.testing.assert_close(drawn[:, :2].var(0), reference.variance[0], atol=0.05, rtol=0.03)
    for direction in ([1.0, 1.0], [1.0, -1.0], [0.3, 2.0]):  # the shape, correlation included: projections
        weights = torch.tensor(direction, dtype=torch.float64)
        found, wanted = ((points @ weights).sort().values for points in (drawn[:, :2], expected))
        below = torch.searchsorted(found, wanted) / count  # the distance of Kolmogorov and Smirnov
        assert (below - torch.arange(count) / count).abs().max() < 0.01
    assert drawn[:, 2].mean().item() == pytest.approx(1 / (1 + outputs[0, 0].exp().item()), abs=0.005)


@pytest.mark.parametrize("num_chars", [0, 6])
def test_same_seed_same_ink_whoever_is_beside_it(num_chars, monkeypatch):
    monkeypatch.setattr(sampling, "CHUNK", 8)  # so that lines leave in different chunks
    model = make_model(2, num_chars)
    texts = [np.array([1, 2, 3, 4]), np.array([5]), np.array([0, 3])] if num_chars else None
    biases, steps = [0.0, 2.0, 1.0], [60, 30, 45]
    together = sample(model, texts, [3, 4, 5], biases, steps)
    for b, line in enumerate(together):
        (alone,) = sample(model, texts and [texts[b]], [3 + b], biases[b], steps[b])
        np.testing.assert_allclose(alone.points, line.points, atol=1e-4)
        np.testing.assert_allclose(alone.outputs, line.outputs, atol=1e-6)
        if num_chars:
            np.testing.assert_allclose(alone.phi, line.phi, atol=1e-6)
    (other,) = sample(model, texts and [texts[0]], [9], 0.0, 60)
    assert not np.allclose(other.points[:5], together[0].points[:5])


def test_points_come_from_what_the_network_said_before_them(kernels_on_and_off):
    """Feed the drawn points back: the network must say the same again, and the points be in whiteboard units."""
    model = make_model(2, 6)
    text = np.array([1, 0, 3])
    (line,) = sample(model, [text], [0], 0.0, 40)
    points = torch.from_numpy(line.points).double()[:, None]
    assert not points[0].any()  # where the pen touches down, as in a recorded line
    with torch.no_grad():
        outputs, _, window = model(model.normalise(points[:-1]), model.one_hot(torch.from_numpy(text)[None]))
    np.testing.assert_allclose(outputs[:, 0], line.outputs, atol=1e-5)
    phi = window_weights(Window(*(p[:, 0] for p in window)), 4)
    np.testing.assert_allclose(phi, line.phi, atol=1e-5)


def test_line_ends_where_the_window_is_strongest_beyond_the_text(monkeypatch):
    monkeypatch.setattr(sampling, "count_own_steps", lambda points, _: len(points))
    model = make_model(2, 6)
    with torch.no_grad():
        model.layers[0].window.bias[-4:] = np.log(0.2)  # five points a character
    texts = [np.array([1, 2, 3, 4, 5, 0]), np.array([1, 2])]
    for text, line in zip(texts, sample(model, texts, [0, 1], 0.0, 200), strict=True):
        assert line.finished and 2 * len(text) < len(line.points) - 1 < 12 * len(text)
        assert line.phi.shape == (len(line.points) - 1, len(text) + 1)
        fires = line.phi[:, -1] > line.phi[:, :-1].max(1)  # the rule of section 5.3
        assert fires.any() and not line.points[1 + fires.argmax() : -1, 2].any()  # the stroke in progress is finished
        assert line.points[-1, 2] == 1


@pytest.mark.parametrize(
    ("pen", "passed", "length"),
    [
        ("00010001", 5, 8),  # the stroke in progress is finished
        ("00010001", 3, 4),
        ("0001" + "0" * 40, 12, 38),  # or cut
        ("1", 0, 1),
    ],
)
def test_a_line_ends_with_its_last_stroke(pen, passed, length, monkeypatch):
    bits, times = map(int, pen), count()
    monkeypatch.setattr(sampling, "sample_points", lambda *_: np.array([[0, 0, next(bits)]]))
    monkeypatch.setattr(sampling, "has_written_text", lambda *_: np.array([next(times) == passed]))
    monkeypatch.setattr(sampling, "count_own_steps", lambda points, _: len(points))
    (line,) = sampling.Sampler(make_model(2, 6)).write([np.array([1, 2, 3])], [0], 0.0, 60)
    assert line.finished and len(line.points) - 1 == length


LETTER = (20, 30, 10, 0)  # where it begins and ends, its steps, how many of them come after the text
DOT, BAR, OTHER = (28, 29, 3, 3), (18, 32, 12, 12), (40, 50, 10, 10)


@pytest.mark.parametrize(
    ("strokes", "own"),
    [
        ([LETTER], 1),
        ([LETTER, DOT], 2),
        ([LETTER, BAR, OTHER], 2),
        ([LETTER, OTHER, DOT], 1),
        ([LETTER, (36, 45, 10, 6)], 1),  # its first steps came before the end of the text
        ([LETTER, (36, 38, 10, 6)], 2),  # a full stop
        ([LETTER, (34, 50, 20, 10)], 2),  # the last character
        ([LETTER, (30, 34, 8, 8)], 2),  # not beside it
        ([LETTER, (34, 50, 3, 0)], 2),  # the text is not passed
    ],
)
def test_what_the_pen_draws_on_the_right_of_its_text_is_left_out(strokes, own):
    x, places, ends = [0.0], [], []
    for first, last, steps, after in strokes:
        x += np.linspace(first, last, steps).tolist()
        places += [1] * (steps - after) + [2] * after
        ends += [0] * (steps - 1) + [1]
    points = np.column_stack([np.diff(x), np.zeros(len(ends)), ends])
    assert sampling.count_own_steps(points, np.eye(3)[places]) == sum(steps for _, _, steps, _ in strokes[:own])


def test_what_is_read_behind_a_text_is_no_part_of_it(kernels_on_and_off):
    """A line is that of the text with a blank, up to where the window is on the blank."""
    model, text, blank = make_model(2, 6), np.array([1, 2, 3]), np.array([5])
    (line,) = sampling.Sampler(model, blank).write([text], [0], 0.0, 60)
    (longer,) = sample(model, [np.append(text, blank)], [0], 0.0, 60)
    assert line.phi.shape == (len(line.points) - 1, 4)
    np.testing.assert_allclose(line.phi, longer.phi[: len(line.phi), :4], atol=1e-6)
    np.testing.assert_allclose(line.points[:-1], longer.points[: len(line.points) - 1], atol=1e-4)


def test_a_short_text_ends_beside_a_long_one():
    """Even where the window jumps far beyond the short text at once."""
    model = make_model(2, 6)
    with torch.no_grad():
        model.layers[0].window.weight[-4:] = 0
        model.layers[0].window.bias[-4:] = np.log(12.0)
    texts = [np.array([1, 2, 3]), np.full(60, 4)]
    short, long = sample(model, texts, [0, 1], 0.0, 40)
    (alone,) = sample(model, texts[:1], [0], 0.0, 40)
    assert short.finished and len(short.points) == len(alone.points) < len(long.points)


@pytest.mark.parametrize("name", ASTRAY)
def test_networks_gone_astray_write_finite_ink_without_a_word(name, kernels_on_and_off):
    model = astray(name)
    texts = [np.array([1, 2, 3]), np.array([4]), np.arange(500) % 6] if model.config.num_chars else None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lines = sample(model, texts, [0, 1, 2], 0.0, 40)
    assert len(lines) == 3
    for line in lines:
        assert np.isfinite(line.points).all() and np.isfinite(line.outputs).all()
        assert line.phi is None or np.isfinite(line.phi).all()


@pytest.mark.parametrize("num_chars", [0, 6])
@pytest.mark.parametrize("part", ["mu", "sigma", "std", "not a number"])
def test_ink_that_overflows_is_returned_without_a_word(num_chars, part, kernels_on_and_off):
    model = make_model(2, num_chars).float()
    with torch.no_grad():
        for name, place in (("mu", slice(4, 10)), ("sigma", slice(10, 16))):
            model.head.bias[place] = {name: 3e38}.get(part, 0.0)
        if part == "std":
            model.std.fill_(3e38)
        if part == "not a number":
            model.head.weight.fill_(np.nan)
    sampler, texts = sampling.Sampler(model), [np.array([1, 2]), np.array([3])] if num_chars else None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lines = sampler.write(texts, [0, 1], [0.0, 3.0], 20, with_outputs=True)
        primed = sampler.prime(lines[0].points, np.array([1, 2] if num_chars else [], dtype=int))
        lines += sampler.write(texts, [0, 1], 0.0, 20, primed=primed)
    assert len(lines) == 4
    assert part == "sigma" or not np.isfinite(lines[0].points).all()


@pytest.mark.parametrize("num_chars", [0, 6])
def test_lines_shared_by_threads_are_the_same(num_chars, monkeypatch):
    sampler, rng = sampling.Sampler(make_model(2, num_chars)), np.random.default_rng(0)
    texts = [rng.integers(0, 6, length) for length in rng.integers(1, 5, 9)] if num_chars else None
    arguments = texts, range(9), rng.uniform(0, 2, 9), rng.integers(10, 60, 9), True
    sampler.is_one_threaded = False
    alone, parts = sampler.write(*arguments), np.empty(9, dtype=object)
    for first in range(3):  # what each thread has: the plain decoder's sums differ with the number of lines
        part = slice(first, None, 3)
        parts[part] = sampler.write(texts and texts[part], *(each[part] for each in arguments[1:4]), True)
    threads, write_together = [], sampler.write_together
    monkeypatch.setattr(sampler, "write_together", lambda *a: threads.append(get_ident()) or write_together(*a))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    sampler.is_one_threaded = True
    for line, wanted, together in zip(sampler.write(*arguments), parts, alone, strict=True):
        for name in ("points", "outputs"):
            np.testing.assert_array_equal(getattr(line, name), getattr(wanted, name))
            np.testing.assert_allclose(getattr(line, name), getattr(together, name), atol=1e-9)
        assert line.finished == wanted.finished
    assert len(threads) == 3 and get_ident() not in threads
    if texts:
        with pytest.raises(ValueError, match="codes must be below 6"):
            sampler.write([*texts[:8], np.array([6])], range(9), 0.0, 20)


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="nothing tells how many threads there are")
def test_a_thread_that_writes_starts_no_others():
    """As PyTorch does, in each thread anew, for what it calls large."""
    model = make_model(3, 6, cell_size=100, hand_size=3, num_clusters=20).float()
    sampler, counts = sampling.Sampler(model), []
    if not sampler.is_one_threaded:
        pytest.skip("there is no C compiler")

    def write():
        before = set(os.listdir("/proc/self/task"))
        texts, steps, hands = [np.arange(5)] * 20, [*range(2, 22)], np.zeros((20, 3), np.float32)
        sampler.write_together(texts, range(20), [0.5] * 20, steps, False, None, hands, Event())
        counts.append(set(os.listdir("/proc/self/task")) - before)

    usual = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        thread = Thread(target=write)
        thread.start()
        thread.join()
    finally:
        torch.set_num_threads(usual)
    assert counts == [set()]


@pytest.mark.parametrize("num_chars", [0, 6])
def test_order_of_lines_changes_nothing(num_chars, kernels_on_and_off):
    model, order = make_model(2, num_chars), [2, 0, 1]
    texts = [np.array([1, 2, 3, 4]), np.array([5]), np.array([0, 3])] if num_chars else None
    lines = sample(model, texts, [3, 4, 5], [0.0, 2.0, 1.0], [60, 30, 45])
    found = sample(model, texts and [texts[b] for b in order], [5, 3, 4], [1.0, 0.0, 2.0], [45, 60, 30])
    for line, b in zip(found, order, strict=True):
        np.testing.assert_allclose(line.points, lines[b].points, atol=1e-4)
        np.testing.assert_allclose(line.outputs, lines[b].outputs, atol=1e-6)


@pytest.mark.parametrize("num_chars", [0, 6])
def test_the_cap_changes_nothing_before_it(num_chars):
    model = make_model(2, num_chars)
    with torch.no_grad():
        if num_chars:
            model.layers[0].window.bias[-4:] = -20.0
    texts = [np.array([1, 2, 3])] if num_chars else None
    short, long = (sample(model, texts, [0], 0.0, steps)[0] for steps in (70, 300))
    np.testing.assert_allclose(short.points[:-1], long.points[:70], atol=1e-9)
    assert (short.outputs == long.outputs[:70]).all()


def test_each_line_has_its_own_bias_and_cap(monkeypatch):
    monkeypatch.setattr(sampling, "CHUNK", 8)
    model = make_model(2, 0)
    lines = sample(model, None, [3, 3, 4], [0.0, 2.0, 0.0], [50, 30, 20])
    assert [len(line.points) - 1 for line in lines] == [50, 30, 20]
    for line, bias in zip(lines, [0.0, 2.0, 0.0], strict=True):
        (alone,) = sample(model, None, [4 if len(line.points) - 1 == 20 else 3], bias, len(line.points) - 1)
        np.testing.assert_allclose(alone.points, line.points, atol=1e-4)


def test_the_cap_on_steps_holds():
    model = make_model(2, 6)
    with torch.no_grad():
        model.layers[0].window.bias[-4:] = -20.0  # a window that stands still
    (line,) = sample(model, [np.array([1, 2, 3])], [0], 0.0, 30)
    assert len(line.points) - 1 == 30 and line.finished is False
    (line,) = sample(make_model(2, 0), None, [0], 0.0, 30)
    assert len(line.points) - 1 == 30 and line.finished is None  # a line without a text has no end of its own


def test_the_first_segment_is_drawn():
    model = make_model(2, 0)
    with torch.no_grad():
        model.head.bias[0] = 30.0  # a pen that is never lifted
    (line,) = sample(model, None, [0], 0.0, 30)
    assert len(line.points) == len(line.points) - 1 + 1
    (stroke,) = stack_lines([Ink(line.points)]).lines[0].strokes
    np.testing.assert_allclose(np.diff(stroke, axis=0), 0.02 * line.points[1:, :2], atol=1e-3)


# -------------------------------------------------------------------------------------------------------------- priming


@pytest.mark.parametrize("switch", ["1", "0"])
@pytest.mark.parametrize("num_chars", [0, 6])
def test_a_primed_line_goes_on_from_the_primes_ink(num_chars, switch, monkeypatch):
    """The network reads the prime's points and then the new ones: step by step it must say the same."""
    monkeypatch.setenv("HANDWRITING_KERNELS", switch)
    model = make_model(2, num_chars)
    sampler = sampling.Sampler(model)
    prime_text, text = np.array([1, 2, 0]), np.array([3, 4])
    (prime,) = sampler.write([prime_text] if num_chars else None, [0], 0.0, 30)
    primed = sampler.prime(prime.points, prime_text if num_chars else np.array([], dtype=int))
    with torch.no_grad():
        xs = model.normalise(torch.from_numpy(prime.points).double())[:, None]
        characters = model.one_hot(torch.from_numpy(prime_text)[None]) if num_chars else None
        _, state, _ = model(xs[:-1], characters)
        both = model.one_hot(torch.from_numpy(np.append(prime_text, text))[None]) if num_chars else None
        expected, _, _ = model(xs[-1:], both, state)
    texts = [text, np.array([5, 5, 1])] if num_chars else None
    said = []
    with monkeypatch.context() as patched:
        patched.setattr(sampling, "sample_points", lambda *given: said.append(given[0]) or sample_points(*given))
        lines = sampler.write(texts, [7, 8], 0.0, 40, True, primed)
    np.testing.assert_allclose(said[0][0], expected[0, 0], atol=1e-6)
    (alone,) = sampler.write(texts and texts[1:], [8], 0.0, 40, primed=primed)
    np.testing.assert_allclose(alone.points, lines[1].points, atol=1e-4)
    for line, codes in zip(lines, texts or [(), ()], strict=True):
        assert not line.points[0, :2].any() and 0 < len(line.points) <= 40
        assert line.outputs.shape == (len(line.points) - 1, model.head.out_features)
        if num_chars:
            assert line.phi.shape == (len(line.points) - 1, len(codes) + 1)


def test_a_line_ends_when_the_window_is_on_the_point_beyond_it():
    """The greatest weight alone does not tell: far from a window all are 0. Nor does a window beyond the text."""
    phi = np.array([[0.1, 0.2, 0.3], [0, 0, 0], [0, 0, 0], [0.1, 0.3, 0.2]])
    kappa = np.array([3.0, 1.0, 9.0, 9.0])[:, None, None]
    assert sampling.has_written_text(phi, kappa, np.full(4, 2)).tolist() == [True, False, True, False]
    assert not sampling.has_written_text(phi[3:], kappa[3:], np.array([2])).any()


def test_strokes_that_finish_the_prime_are_left_out():
    points = np.zeros((6, 3))
    points[[1, 4], 2] = 1  # strokes of two, three and one points
    phi = np.eye(4)[[0, 1, 1, 2, 2, 3]]  # the window comes to the new text within the second stroke
    assert sampling.first_new_step(points, phi, prefix=2) == 2
    assert sampling.first_new_step(points, np.eye(4)[[2] * 6], prefix=2) == 0
    assert sampling.first_new_step(points, np.eye(4)[[0] * 6], prefix=2) == 0
