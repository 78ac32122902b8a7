"""The network against torch.distributions, plain loops written from the paper's equations, and itself in pieces."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Categorical, MixtureSameFamily, MultivariateNormal

from model import (
    Config,
    Decoder,
    Head,
    Model,
    State,
    Window,
    WindowLSTM,
    can_pack,
    log_density,
    log_window_weights,
    mixture,
    negative_log_likelihood,
    product_with,
    run_lstm,
    squared_error,
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
    weights = log_window_weights(window, 5).exp()
    for b in range(2):
        for u in range(1, 6):
            terms = [
                float(a) * math.exp(-float(beta) * (float(kappa) - u) ** 2)  # (eq. 46)
                for a, beta, kappa in zip(window.alpha[b], window.beta[b], window.kappa[b], strict=True)
            ]
            assert float(weights[b, u - 1]) == pytest.approx(sum(terms), rel=1e-12)


def loop_from_the_paper(layer: WindowLSTM, points, text, state):
    """(eq. 46-51) and the LSTM for one line, number by number. Returns hidden (T, H), windows (T, C), kappa (T, K)."""
    K, H, C = layer.window.out_features // 3, layer.window.in_features, state.window.shape[1]
    w, h, c = state.window[0], state.hidden[0, 0], state.cell[0, 0]
    kappa = [float(k) for k in state.kappa[0]]
    hiddens, windows, kappas = [], [], []
    for x in points:
        gates = layer.input.weight @ x + layer.input.bias + layer.recurrent.weight @ torch.cat([w, h])
        o, i, f = (torch.sigmoid(gates[n * H : (n + 1) * H]) for n in range(3))
        c = f * c + i * torch.tanh(gates[3 * H :])
        h = o * torch.tanh(c)
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
    outputs, window, _ = model.layers[0](points, model.one_hot(text), model.initial_state(3), torch.float64)
    windows, hidden = outputs.split([model.config.num_chars, model.config.cell_size], dim=-1)
    for b, length in enumerate(lengths):
        expected = loop_from_the_paper(model.layers[0], points[:, b], text[b, :length], model.initial_state(1))
        for found, wanted in zip((hidden[:, b], windows[:, b], window.kappa[:, b]), expected, strict=True):
            torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(("T", "B", "U", "H", "K"), [(1, 1, 1, 1, 1), (6, 3, 5, 7, 4), (66, 2, 9, 5, 10)])
def test_fused_window_layer_has_the_outputs_and_gradients_of_the_plain_one(T, B, U, H, K):
    model = make_model(cell_size=H, K=K)
    layer = model.layers[0]
    characters = model.one_hot(make_text(B, U, [U] + [max(U - 2, 1)] * (B - 1)))
    points = make_points(T, B).requires_grad_()
    state = State(*(torch.rand_like(s).requires_grad_() for s in model.initial_state(B)))
    inputs = [points, *state, *layer.parameters()]

    def run(layer_function, *arguments):
        outputs, window, cell = layer_function(points, characters, state, *arguments)
        outputs = (outputs, window.kappa, cell)
        generator = torch.Generator().manual_seed(5)
        weights = [torch.randn(o.shape, generator=generator, dtype=torch.float64) for o in outputs]
        return (*outputs, window.alpha, window.beta), torch.autograd.grad(outputs, inputs, weights)

    found, wanted = run(layer.forward, torch.float64), run(layer.forward_by_steps)
    for a, b in zip(found[0] + found[1], wanted[0] + wanted[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("T", "B", "width", "H"), [(1, 1, 1, 1), (16, 3, 4, 7), (130, 2, 9, 5)])
def test_fused_lstm_has_the_outputs_and_gradients_of_torch(T, B, width, H):
    torch.manual_seed(T)
    layer = torch.nn.LSTM(width, H).double()
    inputs = [torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in [(T, B, width), (B, H), (B, H)]]
    outputs, (_, cell) = layer(inputs[0], (inputs[1][None], inputs[2][None]))
    weights = torch.randn_like(outputs), torch.randn_like(cell[0])
    wanted = torch.autograd.grad((outputs, cell[0]), [*inputs, *layer.parameters()], weights)
    found_outputs, found_cell = run_lstm(layer, *inputs, torch.float64)
    found = torch.autograd.grad((found_outputs, found_cell), [*inputs, *layer.parameters()], weights)
    for a, b in zip((found_outputs, found_cell, *found), (outputs, cell[0], *wanted), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("num_chars", [0, 6])
def test_gradient_through_open_forget_gates_is_exact_in_bfloat16(num_chars):
    """A product of 800 gates of 0.9985: it is 0.3, and 1 if each is rounded to bfloat16."""
    torch.manual_seed(0)
    model = make_model(1, num_chars, cell_size=16).float()
    layer = model.layers[0]
    recurrent, bias = (
        (layer.recurrent.weight, layer.input.bias) if num_chars else (layer.weight_hh_l0, layer.bias_ih_l0)
    )
    with torch.no_grad():
        recurrent *= 0.1  # so that most of the gradient goes through the gates
        bias[torch.arange(64).view(4, 16)[2 if num_chars else 1]] = torch.logit(torch.tensor(0.9985))
        if not num_chars:
            layer.bias_hh_l0.zero_()
    points, text = make_points(800, 2).float(), make_text(2, 8, [8, 5])
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        model.matmul_dtype = dtype
        state = model.initial_state(2)
        state.cell.requires_grad_()
        _, after, _ = model(points, model.one_hot(text) if num_chars else None, state)
        found[dtype] = torch.autograd.grad(after.cell.sum(), state.cell)[0]
    wanted = found[torch.float32]
    assert (found[torch.bfloat16] - wanted).norm() < 0.05 * wanted.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_of_lstms_that_share_them(dtype):
    """Autograd hands the same tensor to both layers, and a constant's gradient as one number spread out."""
    torch.manual_seed(0)
    first, second = (torch.nn.LSTM(4, 5).to(dtype) for _ in range(2))
    x, zeros = torch.randn(2, 70, 4, dtype=dtype).transpose(0, 1).requires_grad_(), torch.zeros(2, 5, dtype=dtype)
    inputs = [x, *first.parameters(), *second.parameters()]
    found = sum(run_lstm(layer, x, zeros, zeros, dtype)[0] for layer in (first, second)).sum()
    wanted = sum(layer(x)[0] for layer in (first, second)).sum()
    wanted = torch.autograd.grad(wanted, inputs)
    for _ in range(2):
        torch.testing.assert_close(torch.autograd.grad(found, inputs, retain_graph=True), wanted)


def test_fused_window_layer_passes_gradcheck():
    model = make_model(cell_size=3, K=2)
    characters = model.one_hot(make_text(2, 4, [4, 2]))
    state = model.initial_state(2)
    parameters = [p.detach().clone().requires_grad_() for p in model.layers[0].parameters()]
    names = [name for name, _ in model.layers[0].named_parameters()]

    def run(points, *values):
        weights = dict(zip(names, values, strict=True))
        outputs, window, cell = torch.func.functional_call(
            model.layers[0], weights, (points, characters, state, torch.float64)
        )
        return outputs, window.kappa, cell

    assert torch.autograd.gradcheck(run, (make_points(4, 2).requires_grad_(), *parameters))


def test_head_has_the_outputs_and_gradients_of_linear():
    torch.manual_seed(0)
    hiddens = [torch.randn(70, 2, 5, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    head = torch.nn.Linear(15, 7).double()
    inputs = [head.weight, head.bias, *hiddens]
    found, wanted = Head.apply(*inputs), head(torch.cat(hiddens, dim=-1))
    torch.testing.assert_close(found, wanted)
    weights = torch.randn_like(wanted)
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, weights), torch.autograd.grad(wanted, inputs, weights)
    )


@pytest.mark.parametrize("is_packed", [True, False])
def test_product_with_one_weight_is_the_product(is_packed, monkeypatch):
    if is_packed and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no bfloat16 products in oneDNN")
    assert not is_packed or can_pack()  # or the operations have been renamed
    monkeypatch.setattr("model.can_pack", lambda: is_packed)
    torch.manual_seed(0)
    weight = torch.randn(48, 20).bfloat16()
    product = product_with(weight, 3)
    for rows in (3, 1):
        x = torch.randn(rows, 20).bfloat16()
        expected = x.double() @ weight.double().t()
        torch.testing.assert_close(product(x).double(), expected, rtol=0.01, atol=0.05)


@torch.no_grad()
def test_untrained_window_moves_at_the_pace_of_writing():
    model = make_model(cell_size=50, K=10)
    _, state, _ = model(make_points(250, 4), model.one_hot(make_text(4, 12, [12] * 4)))
    assert ((state.kappa > 5) & (state.kappa < 20)).all()  # 250 points write ten characters


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


@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("num_chars", [0, 6])
@torch.no_grad()
def test_stepper_is_the_network(num_layers, num_chars):
    model = make_model(num_layers, num_chars)
    points, text = make_points(12, 3), make_text(3, 5, [5, 3, 4]) if num_chars else None
    whole, _, window = model(points, model.one_hot(text) if num_chars else None)
    decoder, lines = Decoder(model, text, 3), np.arange(3)
    for t, x in enumerate(points):
        if t == 7:  # a line leaves
            lines = np.array([0, 2])
            decoder.keep(lines)
        output, phi, is_past = decoder.step(x[lines].numpy())
        np.testing.assert_allclose(output, whole[t, lines].numpy(), rtol=1e-7, atol=1e-9)
        if num_chars:
            lengths = (text[lines] >= 0).sum(1).tolist()
            expected = log_window_weights(Window(*(p[t, lines] for p in window)), 6).exp().numpy()
            for found, wanted, past, length in zip(phi, expected, is_past, lengths, strict=True):
                np.testing.assert_allclose(found[: length + 1], wanted[: length + 1], rtol=1e-9, atol=1e-11)
                assert (found[length + 1 :] == found[length]).all()
                assert past == (wanted[length] > wanted[:length]).all()


@pytest.mark.parametrize(("num_chars", "codes"), [(6, [6]), (0, [0])])
def test_stepper_refuses_codes_beyond_the_alphabet(num_chars, codes):
    with pytest.raises(ValueError, match=f"below {num_chars}"):
        Decoder(make_model(1, num_chars), torch.tensor([codes]), 1)


@pytest.mark.parametrize("log_beta", [0.0, 7.0, math.nan])
@torch.no_grad()
def test_no_window_before_its_texts_end_is_past_it(log_beta):
    model = make_model(2, 6)
    window = model.layers[0].window
    window.weight.zero_()
    window.bias.copy_(torch.tensor([0.0, log_beta, math.log(0.45)]).repeat_interleave(4))  # kappa 0.45, 0.9, ...
    text = make_text(2, 3, [3, 2])
    decoder = Decoder(model, text, 2)
    found = np.stack([decoder.step(np.zeros((2, 3)))[2] for _ in range(12)])
    kappa = 0.45 * np.arange(1, 13)[:, None]
    expected = kappa > np.array([[3.5, 2.5]])
    np.testing.assert_array_equal(found, expected & (not math.isnan(log_beta)))


@torch.no_grad()
def test_stepper_with_half_precision_weights_is_the_network_and_follows_its_weights():
    model = make_model(2, 6).float()
    points, text = make_points(12, 1).float(), make_text(1, 5, [5])
    model.matmul_dtype = torch.float32
    for _ in range(2):
        for parameter in model.parameters():
            parameter.copy_((1.5 * parameter).half())
        whole, _, _ = model(points, model.one_hot(text))
        decoder = Decoder(model, text, 1)
        for x, expected in zip(points, whole, strict=True):
            np.testing.assert_allclose(decoder.step(x.numpy())[0], expected.numpy(), rtol=1e-4, atol=1e-4)
    model.head.bias.fill_(1e5)  # beyond the range of half precision
    whole, _, _ = model(points[:1], model.one_hot(text))
    np.testing.assert_allclose(Decoder(model, text, 1).step(points[0].numpy())[0], whole[0].numpy(), rtol=1e-4)
    model.layers[1].weight_hh_l0.fill_(math.nan)  # which half precision's packing would make a number
    assert np.isnan(Decoder(model, text, 1).step(points[0].numpy())[0]).all()


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
    outputs, _, _ = model.layers[0].forward_by_steps(points, characters, model.initial_state(2))
    upper, _ = model.layers[1](torch.cat([points, outputs], dim=-1))
    hidden = outputs[..., -model.config.cell_size :]
    torch.testing.assert_close(model(points, characters)[0], model.head(torch.cat([hidden, upper], dim=-1)))


@pytest.mark.parametrize("num_chars", [0, 6])
def test_loss_in_stretches_is_that_of_the_whole_line(num_chars, monkeypatch):
    monkeypatch.setattr("model.STRETCH", 5)
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
def test_padding_changes_nothing(num_chars):
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


def test_gradient_ignores_what_stands_in_the_padding():
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
def test_bfloat16_products_stay_near_float32(num_chars):
    model = make_model(2, num_chars, cell_size=32).float()
    points = make_points(131, 4).float()
    characters = model.one_hot(make_text(4, 8, [8, 8, 5, 3])) if num_chars else None
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        model.matmul_dtype = dtype
        outputs, state, window = model(points, characters)
        assert outputs.dtype == state.kappa.dtype == torch.float32
        gradients = torch.autograd.grad(outputs.square().sum(), list(model.parameters()), allow_unused=True)
        found[dtype] = (outputs, *gradients, *(window or ()))
    for a, b in zip(found[torch.bfloat16], found[torch.float32], strict=True):
        assert not torch.equal(a, b)  # or bfloat16 was not used
        assert (a - b).norm() < 0.03 * b.norm()


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


@pytest.mark.parametrize("sizes", [{"num_layers": 0}, {"cell_size": 1.5}, {"num_clusters": -1}, {"num_chars": -1}])
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match=next(iter(sizes))):
        Config(**sizes)


def test_text_goes_with_a_window_only():
    with pytest.raises(ValueError, match="window"):
        make_model(2, 6)(make_points(3, 1))
    with pytest.raises(ValueError, match="no points"):
        make_model(2, 0)(make_points(3, 1)[:0])
    with pytest.raises(ValueError, match="window"):
        make_model(2, 0)(make_points(3, 1), torch.zeros(1, 2, 6, dtype=torch.float64))
