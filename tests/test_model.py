"""The network against torch.distributions, plain loops written from the paper's equations, and itself in pieces."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, MixtureSameFamily, MultivariateNormal

from handwriting.data.dataset import MAX_MEAN, MAX_POSITION, MAX_STD, MIN_STD
from model import (
    Config,
    Model,
    Window,
    WindowLSTM,
    log_density,
    mixture,
    negative_log_likelihood,
    squared_error,
    window_weights,
)


def make_model(num_layers=2, num_chars=6, seed=0, **sizes) -> Model:
    torch.manual_seed(seed)
    sizes = {"cell_size": 7, "num_clusters": 3, "K": 4} | sizes
    model = Model(Config(num_layers=num_layers, num_chars=num_chars, **sizes)).double()
    model.matmul_dtype = torch.float64
    model.mean.copy_(torch.tensor([8.0, 0.1]))
    model.std.copy_(torch.tensor([41.0, 36.0]))
    return model


def make_points(T, B, seed=1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(T, B, 3, generator=generator, dtype=torch.float64)
    points[..., 2] = (points[..., 2] > 1).double()
    return points


def make_text(B, U, lengths, seed=2) -> torch.Tensor:
    text = torch.randint(0, 6, (B, U), generator=torch.Generator().manual_seed(seed))
    for b, length in enumerate(lengths):
        text[b, length:] = -1
    return text


# ------------------------------------------------------------------------------------------------------------- mixture


def reference_distribution(outputs: torch.Tensor, bias: float = 0.0) -> MixtureSameFamily:
    """The paper's (eq. 18-24) and (eq. 61, 62) with covariance matrices, for outputs (N, 1 + 6M)."""
    M = (outputs.shape[-1] - 1) // 6
    _, pi, mu1, mu2, s1, s2, rho = outputs.split([1, M, M, M, M, M, M], dim=-1)
    s1, s2, rho = (s1 - bias).exp(), (s2 - bias).exp(), rho.tanh()
    covariance = torch.stack([s1 * s1, rho * s1 * s2, rho * s1 * s2, s2 * s2], dim=-1).unflatten(-1, (2, 2))
    components = MultivariateNormal(torch.stack([mu1, mu2], dim=-1), covariance)
    return MixtureSameFamily(Categorical(logits=pi * (1 + bias)), components)


@pytest.mark.parametrize("bias", [0.0, 0.7])
def test_likelihood_is_that_of_torch_distributions(bias):
    outputs = torch.randn(50, 1 + 6 * 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    points = make_points(50, 1)[:, 0]
    pen = Bernoulli(probs=1 / (1 + outputs[:, 0].exp()))  # (eq. 18), with the paper's sign
    expected = -reference_distribution(outputs, bias).log_prob(points[:, :2]) - pen.log_prob(points[:, 2])
    torch.testing.assert_close(negative_log_likelihood(mixture(outputs, bias), points), expected)


def test_squared_error_is_the_distance_from_the_mean():
    outputs = torch.randn(20, 1 + 6 * 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    points = make_points(20, 1)[:, 0]
    expected = (reference_distribution(outputs).mean - points[:, :2]).square().sum(-1)
    torch.testing.assert_close(squared_error(mixture(outputs), points), expected)


def test_likelihood_stays_exact_as_the_correlation_nears_one():
    """Against float64 arithmetic of the textbook formula, at a correlation where float32 loses 1 - rho^2."""
    outputs = torch.tensor([[0.0, 0.0, 0.3, 0.3, -1.0, -1.0, 7.5]])
    target = torch.tensor([[0.5, 0.4999]])
    expected = reference_distribution(outputs.double()).log_prob(target.double())
    torch.testing.assert_close(log_density(mixture(outputs), target).double(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("raw", [-200.0, -30.0, 30.0, 200.0])
def test_extreme_outputs_give_finite_losses_and_gradients(raw):
    for place in range(7):  # the pen, then pi, mu1, mu2, sigma1, sigma2, rho of the first of two components
        outputs = torch.zeros(1, 13)
        outputs[0, [0, 1, 3, 5, 7, 9, 11][place]] = raw
        outputs.requires_grad_()
        for x in (0.0, 3.0):
            loss = negative_log_likelihood(mixture(outputs), torch.tensor([[x, -x, 1.0]])).sum()
            (gradient,) = torch.autograd.grad(loss, outputs)
            assert torch.isfinite(loss) and torch.isfinite(gradient).all()


# -------------------------------------------------------------------------------------------------------------- window


def test_window_weights_are_the_sum_of_the_paper():
    window = Window(*torch.rand(3, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3)
    weights = window_weights(window, 5)
    for b in range(2):
        for u in range(1, 6):
            terms = [
                float(a) * math.exp(-float(beta) * (float(kappa) - u) ** 2)  # (eq. 46)
                for a, beta, kappa in zip(window.alpha[b], window.beta[b], window.kappa[b], strict=True)
            ]
            assert float(weights[b, u - 1]) == pytest.approx(sum(terms), rel=1e-12)


def loop_from_the_paper(layer: WindowLSTM, points, text, state):
    """(eq. 46-51) and the LSTM for one line, number by number. Returns hidden (T, H), windows (T, C), kappa (T, K)."""
    K, C, cell = layer.window.out_features // 3, state.w.shape[1], layer.cell
    w, h, c = state.w[0], state.hidden[0, 0], state.cell[0, 0]
    kappa = [float(k) for k in state.kappa[0]]
    hiddens, windows, kappas = [], [], []
    for x in points:
        gates = cell.weight_ih @ torch.cat([x, w]) + cell.bias_ih + cell.weight_hh @ h + cell.bias_hh
        i, f, g, o = gates.chunk(4)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        raw = layer.window.weight @ h + layer.window.bias
        w = torch.zeros(C, dtype=torch.float64)
        for k in range(K):
            kappa[k] += math.exp(raw[2 * K + k])
        for u, code in enumerate(text, start=1):
            w[code] += sum(math.exp(raw[k] - math.exp(raw[K + k]) * (kappa[k] - u) ** 2) for k in range(K))
        hiddens.append(h)
        windows.append(w)
        kappas.append(torch.tensor(kappa, dtype=torch.float64))
    return torch.stack(hiddens), torch.stack(windows), torch.stack(kappas)


@torch.no_grad()
def test_window_layer_is_the_loop_of_the_paper():
    model = make_model()
    lengths = [5, 2, 4]
    points, text = make_points(9, 3), make_text(3, 5, lengths)
    state = model.initial_state(3)
    before = state.hidden[0], state.cell[0], state.w, state.kappa
    hidden, windows, _, window = model.layers[0](points, model.one_hot(text), *before)
    for b, length in enumerate(lengths):
        expected = loop_from_the_paper(model.layers[0], points[:, b], text[b, :length], model.initial_state(1))
        for found, wanted in zip((hidden[:, b], windows[:, b], window.kappa[:, b]), expected, strict=True):
            torch.testing.assert_close(found, wanted)


@torch.no_grad()
def test_untrained_window_moves_at_the_pace_of_writing():
    model = make_model(cell_size=50, K=10)
    _, state, _ = model(make_points(250, 4), model.one_hot(make_text(4, 12, [12] * 4)))
    assert ((state.kappa > 5) & (state.kappa < 20)).all()  # 250 points write ten characters


def test_untrained_window_is_one_character_wide_and_its_weights_add_up_to_one():
    alpha, beta, advance = WindowLSTM(Config(cell_size=5, num_chars=6, K=10)).window.bias.exp().chunk(3)
    assert alpha.sum().item() == pytest.approx(1) and advance.tolist() == pytest.approx([1 / 25] * 10)
    assert beta.tolist() == pytest.approx([1] * 10)


def test_untrained_forget_gates_are_open():
    """Those biases are 1 higher than they are drawn; PyTorch draws all within 1 / sqrt(H)."""
    model = Model(Config(num_layers=2, cell_size=400, num_chars=6))
    for bias in (model.layers[0].cell.bias_ih, model.layers[1].bias_ih_l0):
        means = [gate.mean().item() for gate in bias.chunk(4)]  # input, forget, candidate, output
        assert means == pytest.approx([0, 1, 0, 0], abs=0.05)


# ------------------------------------------------------------------------------------------------------------- network


@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("num_chars", [0, 6])
@torch.no_grad()
def test_point_by_point_is_the_same_as_the_whole_line(num_layers, num_chars):
    model = make_model(num_layers, num_chars)
    points = make_points(12, 2)
    characters = model.one_hot(make_text(2, 5, [5, 3])) if num_chars else None
    whole, last, _ = model(points, characters)
    state, pieces = None, []
    for x in points:
        output, state, _ = model(x[None], characters, state)
        pieces.append(output)
    torch.testing.assert_close(torch.cat(pieces), whole)
    for a, b in zip(state, last, strict=True):
        torch.testing.assert_close(a, b)


@torch.no_grad()
def test_every_layer_sees_the_input_and_the_output_sees_every_layer():
    model = make_model(3, 0)
    points = make_points(6, 2)
    first, second, third = model.layers
    h1, _ = first(points)
    h2, _ = second(torch.cat([points, h1], dim=-1))
    h3, _ = third(torch.cat([points, h2], dim=-1))
    torch.testing.assert_close(model(points)[0], model.head(torch.cat([h1, h2, h3], dim=-1)))


@torch.no_grad()
def test_upper_layers_see_the_window_of_the_same_point():
    model = make_model(2, 6)
    points, characters = make_points(6, 2), model.one_hot(make_text(2, 5, [5, 3]))
    state = model.initial_state(2)
    hidden, w, _, _ = model.layers[0](points, characters, state.hidden[0], state.cell[0], state.w, state.kappa)
    upper, _ = model.layers[1](torch.cat([points, w, hidden], dim=-1))
    torch.testing.assert_close(model(points, characters)[0], model.head(torch.cat([hidden, upper], dim=-1)))


def test_dropout_hides_outputs_from_what_is_above_and_nothing_from_the_next_point(kernels_on_and_off):
    """As many cells as asked for are hidden in all of a line, the others grow, and the state is as without."""
    model, points, text = make_model(2, 6, cell_size=50), make_points(9, 40), make_text(40, 5, [5] * 40)
    characters = model.one_hot(text)
    (whole, above), after, _ = model.run_layers(points, characters)
    model.dropout = 0.4
    for step in range(2):
        if step:
            model.eval()
        (first, second), state, _ = model.run_layers(points, characters)
        for found, wanted in ((state.hidden[0], after.hidden[0]), (state.cell[0], after.cell[0]), (state.w, after.w)):
            torch.testing.assert_close(found, wanted)
        hidden = first == 0
        assert (hidden == hidden[0]).all()
        torch.testing.assert_close(first, whole.where(~hidden, 0) / (1 if step else 0.6))
        assert hidden.any() != step and abs(hidden.double().mean() - (0 if step else 0.4)) < 0.05
        assert torch.allclose(second, above) == bool(step)


def test_mean_over_masks_of_dropout_is_the_network_without():
    """That of the head's outputs, which are linear in what dropout leaves of one layer; within four deviations."""
    torch.manual_seed(0)
    model, points = make_model(1, 0, cell_size=50), make_points(6, 2)
    with torch.no_grad():
        wanted, _, _ = model(points)
        model.dropout = 0.3
        found = torch.stack([model(points)[0] for _ in range(400)])
    deviation = found.std(0) / math.sqrt(len(found))
    assert ((found.mean(0) - wanted).abs() < 4.5 * deviation).all() and (deviation > 0).all()


@pytest.mark.parametrize("num_chars", [0, 6])
def test_loss_in_chunks_is_that_of_the_whole_line(num_chars, monkeypatch):
    monkeypatch.setattr("model.LOSS_CHUNK", 5)
    model, points = make_model(2, num_chars), make_points(13, 3) * 40
    text = make_text(3, 5, [5, 3, 4]) if num_chars else None
    mask = torch.arange(1, 13)[:, None] < torch.tensor([13, 8, 5])
    losses, errors = model.losses(points, mask, text)
    normalised = model.normalise(points)
    outputs, _, _ = model(normalised[:-1], model.one_hot(text) if num_chars else None)
    wanted = negative_log_likelihood(mixture(outputs), normalised[1:]) * mask
    torch.testing.assert_close(losses, wanted)
    torch.testing.assert_close(errors, squared_error(mixture(outputs), normalised[1:]) * mask)
    found = torch.autograd.grad(losses.sum(), list(model.parameters()))
    torch.testing.assert_close(found, torch.autograd.grad(wanted.sum(), list(model.parameters())))


@pytest.mark.parametrize("num_chars", [0, 6])
@torch.no_grad()
def test_padding_changes_nothing(num_chars, kernels_on_and_off):
    model = make_model(2, num_chars)
    lengths, text_lengths = [13, 5, 9], [6, 2, 4]
    points = make_points(13, 3) * 40
    mask = torch.arange(1, 13)[:, None] < torch.tensor(lengths)
    text = make_text(3, 6, text_lengths) if num_chars else None
    losses, errors = model.losses(points, mask, text)
    for b, length in enumerate(lengths):
        alone = text[b : b + 1, : text_lengths[b]] if num_chars else None
        loss, error = model.losses(points[:length, b : b + 1], mask[: length - 1, b : b + 1], alone)
        torch.testing.assert_close(losses[: length - 1, b], loss[:, 0])
        torch.testing.assert_close(errors[: length - 1, b], error[:, 0])
    assert (losses[~mask] == 0).all() and (errors[~mask] == 0).all()


def test_gradient_ignores_what_stands_in_the_padding(kernels_on_and_off):
    model = make_model()
    mask = torch.arange(1, 10)[:, None] < torch.tensor([10, 4])
    gradients = []
    for filling in (0.0, 1000.0):
        points = make_points(10, 2)
        points[4:, 1] = filling
        loss = model.losses(points, mask, make_text(2, 5, [5, 3]))[0].sum()
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("num_chars", [0, 6])
def test_order_of_lines_changes_nothing(num_chars, kernels_on_and_off):
    model, lengths, order = make_model(2, num_chars), torch.tensor([13, 5, 9]), [2, 0, 1]
    points, mask = make_points(13, 3) * 40, torch.arange(1, 13)[:, None] < lengths
    text = make_text(3, 6, [6, 2, 4]) if num_chars else None
    losses, errors = model.losses(points, mask, text)
    found = model.losses(points[:, order], mask[:, order], text[order] if num_chars else None)
    torch.testing.assert_close(found, (losses[:, order], errors[:, order]))
    gradients = [torch.autograd.grad(each.sum(), list(model.parameters())) for each in (losses, found[0])]
    torch.testing.assert_close(*gradients)


HUGEST = 2.0 * MAX_POSITION  # offset of a data set
BATCHES = {  # points (T + 1, 2 lines, 3) in whiteboard units, and the length of the texts
    "huge": (torch.full((40, 2, 3), HUGEST).index_fill_(2, torch.tensor(2), 1.0), 5),
    "to and fro": (torch.tensor([[[HUGEST, -HUGEST, 0]], [[-HUGEST, HUGEST, 0]]]).repeat(20, 2, 1), 5),
    "one huge": (torch.zeros(40, 2, 3).index_fill_(0, torch.tensor(20), -HUGEST) * torch.tensor([1, 1, 0]), 5),
    "tiny": (torch.full((40, 2, 3), 1e-30), 5),
    "at rest, the pen down": (torch.zeros(40, 2, 3), 5),
    "one point": (make_points(2, 2).float() * 40, 5),
    "long text": (make_points(10, 2).float() * torch.tensor([40, 40, 1]), 1000),
    "one character": (make_points(100, 2).float() * torch.tensor([40, 40, 1]), 1),
}


# Logarithms of alpha, beta, and what kappa advances by.
JUMPS = {"narrow jump": (100.0, 100.0, 100.0), "wide jump": (100.0, -200.0, 60.0)}
ASTRAY = ["fresh", "no window", "window times 1000", "head times 1000", *JUMPS]


def astray(name: str) -> Model:
    """A network in whose middle numbers could overflow: one with a large part, or a window that jumps far away."""
    part, _, factor = name.partition(" times ")
    model = make_model(2, 0 if part == "no window" else 6).float()
    model.matmul_dtype = torch.float32
    with torch.no_grad():
        for parameter in {"window": model.layers[0].window, "head": model.head}[part].parameters() if factor else ():
            parameter *= float(factor)
        if part in JUMPS:
            model.layers[0].window.bias.copy_(torch.tensor(JUMPS[part]).repeat_interleave(4))
    return model


@pytest.mark.parametrize("statistics", [(8.0, 41.0), (MAX_MEAN, MIN_STD), (-MAX_MEAN, MAX_STD)])
@pytest.mark.parametrize("name", ASTRAY)
def test_any_batch_has_finite_losses_and_gradients(name, statistics, kernels_on_and_off):
    model = astray(name)
    model.mean.fill_(statistics[0])
    model.std.fill_(statistics[1])
    for batch, (points, length) in BATCHES.items():
        text = make_text(2, length, [length, max(length - 1, 1)]) if model.config.num_chars else None
        mask = torch.ones(len(points) - 1, 2, dtype=torch.bool)
        losses, errors = model.losses(points, mask, text)
        gradients = torch.autograd.grad(losses.sum(), list(model.parameters()))
        assert torch.isfinite(losses).all() and torch.isfinite(errors).all(), batch
        assert all(torch.isfinite(gradient).all() for gradient in gradients), batch


def test_losses_count_in_whiteboard_units():
    """Scaling ink and statistics alike changes nothing; density in whiteboard units is that over the deviations."""
    model = make_model(2, 0)
    points, mask = make_points(8, 2) * 40, torch.ones(7, 2, dtype=torch.bool)
    expected, _ = model.losses(points, mask)
    points[..., :2] *= 3
    model.mean *= 3
    model.std *= 3
    torch.testing.assert_close(model.losses(points, mask)[0], expected)
    torch.testing.assert_close(model.denormalise(model.normalise(points)), points)


@pytest.mark.parametrize(
    "sizes",
    [{"cell_size": 1.5}, {"K": "10"}, {"num_chars": -1}]
    + [{name: 0} for name in ("num_layers", "cell_size", "num_clusters", "K")],
)
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match=next(iter(sizes))):
        Config(**sizes)


def test_the_smallest_network_is_one():
    Model(Config(num_layers=1, cell_size=1, num_clusters=1, K=1, num_chars=0))


def test_text_goes_with_a_window_only():
    with pytest.raises(ValueError, match="window"):
        make_model(2, 6)(make_points(3, 1))
    with pytest.raises(ValueError, match="no points"):
        make_model(2, 0)(make_points(3, 1)[:0])
    with pytest.raises(ValueError, match="window"):
        make_model(2, 0)(make_points(3, 1), torch.zeros(1, 2, 6, dtype=torch.float64))
