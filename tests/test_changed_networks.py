"""Networks that a student has changed: the kernels leave to the plain code what they do not know, and know the rest."""

import numpy as np
import pytest
import torch
from test_kernels import graph_of, switched_on  # noqa: F401 - a fixture
from test_model import make_model, make_points, make_text

import model as model_room
from handwriting.sampling import PlainDecoder, Sampler
from model import Config, Model, Window, WindowLSTM, window_weights

kernels = pytest.importorskip("handwriting.kernels")


class GRUModel(Model):
    """What a student does who wants another cell in the upper layers."""

    def __init__(self, config):
        super().__init__(config)
        for n, layer in enumerate(self.layers):
            if isinstance(layer, torch.nn.LSTM):
                self.layers[n] = torch.nn.GRU(layer.input_size, layer.hidden_size)

    def run_lstm(self, layer, inputs, hidden, cell):
        if isinstance(layer, torch.nn.GRU):
            return layer(torch.cat(inputs, dim=-1), hidden[None])[0], cell
        return super().run_lstm(layer, inputs, hidden, cell)


class DropoutModel(Model):
    def run_layers(self, *given, **named):
        hiddens, *others = super().run_layers(*given, **named)
        return [torch.nn.functional.dropout(h, 0.5, self.training) for h in hiddens], *others


class ResidualModel(Model):
    def run_lstm(self, layer, inputs, hidden, cell):
        outputs, cell = super().run_lstm(layer, inputs, hidden, cell)
        return (outputs + inputs[-1] if inputs[-1].shape == outputs.shape else outputs), cell


class LikeLSTM(torch.nn.Module):
    """A layer with the interface of nn.LSTM."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, state):
        return self.inner(x.tanh(), state)


def swap_in_what_is_like_lstm(model):
    model.layers[-1] = LikeLSTM(model.layers[-1])


def swap_in_a_subclass(model):
    class OtherLSTM(torch.nn.LSTM):
        def forward(self, x, state):
            return super().forward(x.tanh(), state)

    model.layers[-1] = OtherLSTM(model.layers[-1].input_size, 7)


def leave_out_biases(model):
    model.layers[-1] = torch.nn.LSTM(model.layers[-1].input_size, 7, bias=False)
    model.head = torch.nn.Linear(model.head.in_features, model.head.out_features, bias=False)


def make_a_deeper_head(model):
    model.head = torch.nn.Sequential(torch.nn.Linear(14, 14), torch.nn.Tanh(), torch.nn.Linear(14, 19))
    model.head.out_features = 19


def hook_in(model):
    model.layers[-1].register_forward_hook(lambda layer, inputs, result: (result[0] / 2, result[1]))
    model.head.register_forward_pre_hook(lambda layer, inputs: (inputs[0] / 2,))


def change_the_step(model):
    step = model.layers[0].step

    def halved(*arguments):
        hidden, *others = step(*arguments)
        return hidden / 2, *others

    model.layers[0].step = halved


def change_the_pace(model):
    """A window whose kappa is bounded, as in an attention that may not skip."""
    step = model.layers[0].step

    def bounded(x, characters, hidden, cell, w, kappa):
        hidden, cell, w, window = step(x, characters, hidden, cell, w, kappa)
        return hidden, cell, w, Window(window.alpha, window.beta, torch.minimum(window.kappa, kappa + 0.01))

    model.layers[0].step = bounded


def change_the_cell_of_the_window(model):
    class OtherCell(torch.nn.LSTMCell):
        def forward(self, x, state):
            return super().forward(x.tanh(), state)

    model.layers[0].cell = OtherCell(9, 7)


class WiderWindowLSTM(WindowLSTM):
    """A window whose weights have a factor of their own, and a cell that is told whether the pen is down."""

    def __init__(self, config):
        super().__init__(config)
        self.cell = torch.nn.LSTMCell(4 + config.num_chars, config.cell_size)
        self.window = torch.nn.Linear(config.cell_size, 4 * config.K)

    def step(self, x, characters, hidden, cell, w, kappa):
        hidden, cell = self.cell(torch.cat([x, 1 - x[:, 2:], w], dim=-1), (hidden, cell))
        alpha, beta, advance, factor = self.window(hidden).exp().chunk(4, dim=-1)
        window = Window(alpha * factor, beta, kappa + 0.1 * advance)
        return hidden, cell, (window_weights(window, characters.shape[1])[:, None] @ characters)[:, 0], window


def widen_the_window(model):
    model.layers[0] = WiderWindowLSTM(model.config)


CHANGES = [
    swap_in_what_is_like_lstm, swap_in_a_subclass, leave_out_biases, make_a_deeper_head, hook_in, change_the_step,
    change_the_pace, change_the_cell_of_the_window, widen_the_window,
]  # fmt: skip


def changed_model(change) -> Model:
    make = change if isinstance(change, type) else Model
    torch.manual_seed(0)
    model = make(Config(cell_size=7, num_clusters=3, K=4, num_chars=6))
    if make is Model:
        change(model)
    return model.double()


@pytest.mark.parametrize("change", [GRUModel, DropoutModel, ResidualModel, *CHANGES])
def test_a_changed_network_is_trained_and_written_as_it_stands(change, monkeypatch):
    """With kernels and without there are the same losses, gradients and ink, and not those of the network before."""
    model, points, text = changed_model(change), make_points(13, 3) * 40, make_text(3, 5, [5, 3, 4])
    monkeypatch.setenv("HANDWRITING_KERNELS", "1")
    found = []
    for switch in ("1", "0"):
        monkeypatch.setenv("HANDWRITING_KERNELS", switch)
        torch.manual_seed(1)  # of dropout
        losses, _ = model.losses(points, torch.ones(12, 3, dtype=torch.bool), text)
        gradients = torch.autograd.grad(losses.sum(), list(model.parameters()), allow_unused=True)
        model.eval()
        (line,) = Sampler(model).write([np.array([1, 2, 3])], [0], 0.0, 20, with_outputs=True)
        model.train()
        found.append((losses, *gradients, torch.from_numpy(line.points), torch.from_numpy(line.outputs)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
    if change is not DropoutModel:
        assert isinstance(Sampler(model).start([np.array([1])], 1), PlainDecoder)


def wider(outputs):
    return model_room.Mixture(*(part + 0.1 if n == 3 else part for n, part in enumerate(usual_mixture(outputs))))


def clipped(outputs):
    """The same numbers, but a gradient that is cut, as the paper does (section 4.2)."""
    outputs = outputs * 1.0
    if outputs.requires_grad:
        outputs.register_hook(lambda gradient: gradient.clamp(-0.05, 0.05))
    return usual_mixture(outputs)


usual_mixture = model_room.mixture
CHANGED_LOSSES = {
    "mixture": [wider, clipped],
    "squared_error": [lambda mix, targets: torch.zeros_like(mix.end_logit)],
    "negative_log_likelihood": [lambda mix, targets: -model_room.log_density(mix, targets[..., :2])],
    "log_density": [lambda mix, offsets: offsets.sum(-1) + mix.mu.sum((-1, -2))],
}


@pytest.mark.parametrize(("name", "change"), [(name, f) for name, changes in CHANGED_LOSSES.items() for f in changes])
def test_a_changed_loss_is_computed_as_it_stands(name, change, monkeypatch):
    model, points = make_model(2, 0).float(), make_points(13, 3).float()
    mask, found = torch.ones(12, 3, dtype=torch.bool), []
    for changed, switch in ((False, "1"), (True, "1"), (True, "0")):
        if changed:
            monkeypatch.setattr(model_room, name, change)
        monkeypatch.setenv("HANDWRITING_KERNELS", switch)
        losses, errors = model.losses(points, mask)
        gradients = torch.autograd.grad(losses.sum(), list(model.parameters()), allow_unused=True)
        assert "FusedMixture" not in graph_of(losses) or not changed
        found.append((losses.detach(), errors, *(g for g in gradients if g is not None)))
    assert not all(map(torch.equal, found[0], found[1]))
    for a, b in zip(found[1], found[2], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_lstms_of_other_shapes_never_come_to_the_kernels(monkeypatch):
    """PyTorch tells what does not fit, or computes it."""
    zeros = torch.zeros(3, 7)
    for options in ({"proj_size": 3}, {"bidirectional": True}, {"num_layers": 2}, {"batch_first": True}):
        layer = torch.nn.LSTM(9, 7, **options)
        assert not kernels.takes(layer, torch.nn.LSTM, zeros)
    assert kernels.takes(torch.nn.LSTM(9, 7), torch.nn.LSTM, zeros)
    assert not kernels.takes(torch.nn.LSTM(9, 7), torch.nn.LSTM, zeros.half())
    model = make_model(2, 0)
    model.layers[1] = torch.nn.LSTM(model.layers[1].input_size, 7, proj_size=3).double()
    with pytest.raises(RuntimeError, match="hidden"):
        model(make_points(5, 3))


@pytest.mark.parametrize("num_chars", [0, 6])
@pytest.mark.parametrize("matmul_dtype", [torch.float32, torch.bfloat16])
def test_a_double_network_is_multiplied_in_double(num_chars, matmul_dtype, monkeypatch):
    model, points = make_model(2, num_chars), make_points(13, 3) * 40
    model.matmul_dtype = matmul_dtype
    text = make_text(3, 5, [5, 3, 4]) if num_chars else None
    found = []
    for switch in ("1", "0"):
        monkeypatch.setenv("HANDWRITING_KERNELS", switch)
        losses, _ = model.losses(points, torch.ones(12, 3, dtype=torch.bool), text)
        found.append((losses, *torch.autograd.grad(losses.sum(), list(model.parameters()))))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("num_chars", [0, 6])
@pytest.mark.parametrize("matmul_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", range(4))
def test_a_network_that_is_as_it_was_has_the_kernels(num_chars, matmul_dtype, seed):
    """However it is rounded, and at a single point, which is PyTorch's."""
    model = make_model(3, num_chars, seed, cell_size=64).float()
    model.matmul_dtype = matmul_dtype
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= seed + 1
    assert kernels.pack_model(model) is not None
    points, characters = make_points(5, 3).float(), model.one_hot(make_text(3, 5, [5, 3, 4])) if num_chars else None
    hiddens, _, _ = model.run_layers(points, characters)
    functions = [[*graph_of(h).split()] for h in hiddens]
    assert [names.count("FusedLSTMBackward") for names in functions] == [1, 2, 3]
    assert "FusedLinear" in model.run_head(hiddens).grad_fn.name()
    one_point, _, _ = model.run_layers(points[:1], characters)
    assert not any("Fused" in graph_of(h) for h in one_point)
    for whole, single in zip(hiddens, one_point, strict=True):
        torch.testing.assert_close(single, whole[:1].float(), rtol=0.02, atol=0.01)
