"""The kernels against the plain code of model.py, PyTorch, and autograd; and the project without them."""

import copy
import importlib
import math
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from conftest import ROOT, environment
from test_model import ASTRAY, astray, make_model, make_points, make_text

from handwriting.sampling import PlainDecoder, has_written_text
from model import (
    MAX_ATANH_RHO,
    MAX_LOG_SIGMA,
    State,
    Window,
    mixture,
    negative_log_likelihood,
    squared_error,
    window_weights,
)

kernels = pytest.importorskip("handwriting.kernels")
decoder_room = pytest.importorskip("handwriting.kernels.decoder")
cells_room, products = (pytest.importorskip(f"handwriting.kernels.{name}") for name in ("cells", "products"))


@pytest.fixture(autouse=True)
def switched_on(monkeypatch):
    """The kernels are what these tests are of, however the others run."""
    monkeypatch.setenv("HANDWRITING_KERNELS", "1")


@pytest.fixture(params=["plain", "compiled"])
def cells(request, monkeypatch):
    """Have a layer's cells in PyTorch or in C."""
    if request.param == "plain":
        monkeypatch.setattr(cells_room, "load_library", lambda name: None)
    elif not cells_room.load_library("cells"):
        pytest.skip("there is no C compiler")


@pytest.mark.parametrize(("T", "B", "U", "H", "K"), [(1, 1, 1, 1, 1), (6, 3, 5, 7, 4), (66, 2, 9, 5, 10)])
def test_fused_window_layer_has_the_outputs_and_gradients_of_the_plain_one(T, B, U, H, K):
    model = make_model(cell_size=H, K=K)
    layer = model.layers[0]
    characters = model.one_hot(make_text(B, U, [U] + [max(U - 2, 1)] * (B - 1)))
    points = make_points(T, B).requires_grad_()
    state = State(*(torch.rand_like(s).requires_grad_() for s in model.initial_state(B)))
    before = state.hidden[0], state.cell[0], state.w, state.kappa
    inputs = [points, *state, *layer.parameters()]

    def run(layer_function):
        hidden, w, cell, window = layer_function(points, characters, *before)
        window = Window(*window)
        outputs = (hidden, w, cell, window.kappa)
        generator = torch.Generator().manual_seed(5)
        weights = [torch.randn(o.shape, generator=generator, dtype=torch.float64) for o in outputs]
        return (*outputs, window.alpha, window.beta), torch.autograd.grad(outputs, inputs, weights)

    found, wanted = run(partial(kernels.window_lstm, layer, torch.float64)), run(layer)
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
    found_outputs, found_cell = kernels.lstm(layer, torch.float64, inputs[:1], *inputs[1:])
    found = torch.autograd.grad((found_outputs, found_cell), [*inputs, *layer.parameters()], weights)
    for a, b in zip((found_outputs, found_cell, *found), (outputs, cell[0], *wanted), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("num_chars", [0, 6])
def test_gradient_through_open_forget_gates_is_exact_in_bfloat16(num_chars, cells):
    """A product of 800 gates of 0.9985: it is 0.3, and 1 if each is rounded to bfloat16."""
    torch.manual_seed(0)
    model = make_model(1, num_chars, cell_size=16).float()
    layer = model.layers[0]
    weights = [*layer.cell.parameters()] if num_chars else [*layer.parameters()]
    with torch.no_grad():
        weights[1] *= 0.1  # the recurrent ones, so that most of the gradient goes through the gates
        weights[2].chunk(4)[1].fill_(torch.logit(torch.tensor(0.9985)))
        weights[3].zero_()
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


@pytest.mark.parametrize("cells", ["compiled"], indirect=True)
@pytest.mark.parametrize("low", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("B", "H"), [(1, 1), (3, 37), (2, 400)])
def test_compiled_cells_are_those_of_pytorch(B, H, low, cells):
    torch.manual_seed(H)
    points, rare = 3, torch.tensor([0.0, -0.0, 1e-30, 30, -30, 90, -90, 1e30, -1e30, math.inf, -math.inf, math.nan])
    z = (4 * torch.randn(points, B, 4 * H)).to(low)
    z[-1].view(-1)[: len(rare)] = rare[: z[-1].numel()].to(low)
    first, d_h, d_cell = torch.randn(B, H), torch.randn(points, B, H + 5)[..., 5:], torch.randn(B, H)
    found = []
    for forward, backward in (cells_room.forward, cells_room.backward), cells_room.choose_cells(torch.float32, low):
        assert (forward is cells_room.forward) == (not found)  # in PyTorch, and in C
        gates, cell = torch.empty(points, B, 4, H), torch.empty(points + 1, B, H)
        cell[0] = first
        hs, d_zs, d_c = torch.empty(points, B, H), torch.empty_like(z), d_cell.clone()
        for n in range(points):
            forward(z[n], cell[n], gates[n], cell[n + 1], hs[n])
        for n in reversed(range(points)):
            backward(cell[n], gates[n], cell[n + 1], d_h[n], d_c, d_zs[n])
        found.append((gates, cell, hs, d_c, d_zs.float()))
    for part, (a, b) in enumerate(zip(*found, strict=True)):
        tolerance = (
            {"rtol": 0.01, "atol": 1e-6} if part == 4 and low == torch.bfloat16 else {"rtol": 2e-5, "atol": 2e-6}
        )
        torch.testing.assert_close(a, b, equal_nan=True, **tolerance)


@pytest.mark.parametrize("points", [72, 75, 77])  # 6, 9, and 11 after a chunk of 66
def test_gradients_have_nothing_of_memory_that_was_not_written(points):
    """PyTorch fills new memory with NaN here. oneDNN reads on beyond the end of a short row, if it is part of a longer.

    It happens to products of this size on processors with AMX.
    """
    torch.manual_seed(0)
    layer, x, zeros = torch.nn.LSTM(40, 400), torch.randn(points, 24, 40), torch.zeros(24, 400)
    torch.use_deterministic_algorithms(True)
    try:
        h, _ = kernels.lstm(layer, torch.bfloat16, [x], zeros, zeros)
        gradients = torch.autograd.grad(h.float().sum(), list(layer.parameters()))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_of_lstms_that_share_them(dtype):
    """Autograd hands the same tensor to both layers, and a constant's gradient as one number spread out."""
    torch.manual_seed(0)
    first, second = (torch.nn.LSTM(4, 5).to(dtype) for _ in range(2))
    x, zeros = torch.randn(2, 70, 4, dtype=dtype).transpose(0, 1).requires_grad_(), torch.zeros(2, 5, dtype=dtype)
    inputs = [x, *first.parameters(), *second.parameters()]
    found = sum(kernels.lstm(layer, dtype, [x], zeros, zeros)[0] for layer in (first, second)).sum()
    wanted = sum(layer(x)[0] for layer in (first, second)).sum()
    wanted = torch.autograd.grad(wanted, inputs)
    for _ in range(2):
        torch.testing.assert_close(torch.autograd.grad(found, inputs, retain_graph=True), wanted)


def test_fused_window_layer_passes_gradcheck():
    model = make_model(cell_size=3, K=2)
    layer, state = model.layers[0], model.initial_state(2)
    characters = model.one_hot(make_text(2, 4, [4, 2]))
    before = state.hidden[0], state.cell[0], state.w, state.kappa
    names, parameters = zip(*layer.named_parameters(), strict=True)

    def run(points, *values):
        for name, value in zip(names, values, strict=True):
            module, _, parameter = name.rpartition(".")
            setattr(copies.get_submodule(module), parameter, value)
        hidden, w, cell, window = kernels.window_lstm(copies, torch.float64, points, *rest)
        return hidden, w, cell, window[2]

    copies, rest = copy.deepcopy(layer), (characters, *before)
    for name in names:  # so that the values below can stand in their places
        module, _, parameter = name.rpartition(".")
        delattr(copies.get_submodule(module), parameter)
    values = [p.detach().clone().requires_grad_() for p in parameters]
    assert torch.autograd.gradcheck(run, (make_points(4, 2).requires_grad_(), *values))


def plain_mixture(outputs, targets):
    mix = mixture(outputs)
    return negative_log_likelihood(mix, targets), squared_error(mix, targets)


@pytest.mark.parametrize("cells", ["compiled"], indirect=True)
@pytest.mark.parametrize("M", [1, 3, 20])
@pytest.mark.parametrize("scale", [0.3, 3, 12])  # the last goes beyond all bounds
def test_mixture_has_the_losses_and_gradients_of_float64(M, scale, cells):
    torch.manual_seed(M)
    outputs, targets = scale * torch.randn(40, 3, 1 + 6 * M), torch.randn(40, 3, 3)
    targets[..., 2] = (targets[..., 2] > 0).float()
    targets[0, 0, :2] *= 1e4
    weights, found = torch.randn(40, 3), []

    def kernel(outputs, targets):
        return kernels.mixture_losses(outputs, targets, MAX_LOG_SIGMA, MAX_ATANH_RHO)

    for function, dtype in ((kernel, torch.float32), (plain_mixture, torch.float64)):
        y = outputs.to(dtype).requires_grad_()
        losses, errors = function(y, targets.to(dtype))
        assert not errors.requires_grad
        (gradient,) = torch.autograd.grad((losses * weights.to(dtype)).sum(), y)
        found.append((losses, errors, gradient))
    assert kernels.takes_mixture(plain_mixture, outputs, targets, MAX_LOG_SIGMA, MAX_ATANH_RHO)
    for others in (targets.double(), targets[:1], targets[0]):  # in memory not what the C code would read
        assert not kernels.takes_mixture(plain_mixture, outputs, others, MAX_LOG_SIGMA, MAX_ATANH_RHO)
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cells", ["compiled"], indirect=True)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_mixture_of_outputs_that_are_no_numbers_has_no_finite_loss_where_the_plain_one_has_none(value, cells):
    outputs, targets = torch.linspace(-1, 1, 19).repeat(19, 1), torch.tensor([[0.5, -0.5, 1.0]]).repeat(19, 1)
    outputs.diagonal()[:] = value
    found, _ = kernels.mixture_losses(outputs, targets, MAX_LOG_SIGMA, MAX_ATANH_RHO)
    wanted, _ = plain_mixture(outputs, targets)
    with torch.inference_mode():  # which would forbid gradients
        assert kernels.takes_mixture(plain_mixture, outputs, targets, MAX_LOG_SIGMA, MAX_ATANH_RHO)
    assert torch.equal(found.isfinite(), wanted.isfinite()) and not wanted.isfinite().all()
    torch.testing.assert_close(found[wanted.isfinite()], wanted[wanted.isfinite()])


def test_head_has_the_outputs_and_gradients_of_linear():
    torch.manual_seed(0)
    hiddens = [torch.randn(70, 2, 5, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    head = torch.nn.Linear(15, 7).double()
    inputs = [head.weight, head.bias, *hiddens]
    found, wanted = kernels.linear(head, hiddens), head(torch.cat(hiddens, dim=-1))
    torch.testing.assert_close(found, wanted)
    weights = torch.randn_like(wanted)
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, weights), torch.autograd.grad(wanted, inputs, weights)
    )


@pytest.mark.parametrize("pack", ["HAS_BF16_PACKING", ""])
def test_product_with_one_weight_is_the_product(pack, monkeypatch):
    if pack and not products.HAS_BF16_PACKING:
        pytest.skip("this processor has no bfloat16 products in oneDNN")
    monkeypatch.setattr(products, "HAS_BF16_PACKING", bool(pack))
    torch.manual_seed(0)
    weight = torch.randn(48, 20).bfloat16()
    product = products.pack_linear(weight, 3)
    for rows in (3, 1):
        x = torch.randn(rows, 20).bfloat16()
        expected = x.double() @ weight.double().t()
        torch.testing.assert_close(product(x).double(), expected, rtol=0.01, atol=0.05)
        added = torch.randn(rows, 48).bfloat16()
        torch.testing.assert_close(product(x, added).double(), expected + added.double(), rtol=0.01, atol=0.05)


@pytest.mark.parametrize("make", [PlainDecoder, kernels.Decoder])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("num_chars", [0, 6])
@torch.no_grad()
def test_decoder_is_the_network(num_layers, num_chars, make):
    model = make_model(num_layers, num_chars)
    points, text = make_points(12, 3), make_text(3, 5, [5, 3, 4]) if num_chars else None
    whole, _, window = model(points, model.one_hot(text) if num_chars else None)
    decoder, lines = make(model, text, 3), np.arange(3)
    for t, x in enumerate(points):
        if t == 7:  # a line leaves
            lines = np.array([0, 2])
            decoder = decoder.select(lines)
        output, phi, kappa = decoder.step(x[lines].numpy())
        np.testing.assert_allclose(output, whole[t, lines].numpy(), rtol=1e-7, atol=1e-9)
        if num_chars:
            np.testing.assert_allclose(kappa[..., 0], window.kappa[t, lines].numpy(), rtol=1e-9)
            lengths = (text[lines] >= 0).sum(1).numpy()
            expected = window_weights(Window(*(p[t, lines] for p in window)), 6).numpy()
            has_ended = has_written_text(phi, kappa, lengths)
            for found, wanted, ended, length in zip(phi, expected, has_ended, lengths, strict=True):
                np.testing.assert_allclose(found[: length + 1], wanted[: length + 1], rtol=1e-9, atol=1e-11)
                assert (found[length + 1 :] == found[length]).all()
                assert ended == (wanted[length] > wanted[:length]).all()


@pytest.mark.parametrize("make", [PlainDecoder, kernels.Decoder])
@pytest.mark.parametrize("log_beta", [0.0, 7.0, math.nan])
@torch.no_grad()
def test_no_line_ends_before_its_window_is_beyond_the_text(log_beta, make):
    model = make_model(2, 6)
    window = model.layers[0].window
    window.weight.zero_()
    window.bias.copy_(torch.tensor([0.0, log_beta, math.log(0.45)]).repeat_interleave(4))  # kappa 0.45, 0.9, ...
    decoder = make(model, make_text(2, 3, [3, 2]), 2)
    found = np.stack([has_written_text(*decoder.step(np.zeros((2, 3)))[1:], np.array([3, 2])) for _ in range(12)])
    kappa = 0.45 * np.arange(1, 13)[:, None]
    expected = kappa > np.array([[3.5, 2.5]])
    np.testing.assert_array_equal(found, expected & (not math.isnan(log_beta)))


@torch.no_grad()
def test_decoder_with_half_precision_weights_is_the_network():
    model = make_model(2, 6).float()
    points, text = make_points(12, 1).float(), make_text(1, 5, [5])
    model.matmul_dtype = torch.float32
    for _ in range(2):
        for parameter in model.parameters():
            parameter.copy_((1.5 * parameter).half())
        whole, _, _ = model(points, model.one_hot(text))
        decoder = kernels.Decoder(model, text, 1)
        for x, expected in zip(points, whole, strict=True):
            np.testing.assert_allclose(decoder.step(x.numpy())[0], expected.numpy(), rtol=1e-4, atol=1e-4)
    model.head.bias.fill_(1e5)  # beyond the range of half precision
    whole, _, _ = model(points[:1], model.one_hot(text))
    np.testing.assert_allclose(kernels.Decoder(model, text, 1).step(points[0].numpy())[0], whole[0].numpy(), rtol=1e-4)
    model.layers[1].weight_hh_l0.fill_(math.nan)  # which half precision's packing would make a number
    assert np.isnan(kernels.Decoder(model, text, 1).step(points[0].numpy())[0]).all()


def rounded(model: torch.nn.Module) -> torch.nn.Module:
    """The network with the weights that the C step has: 8 bits, one scale for 80 columns of what layers hand on."""

    def dequantise(weight: torch.Tensor, terms: int) -> torch.Tensor:
        found = torch.zeros_like(weight)
        for row in range(len(weight)):
            for block in range(0, weight.shape[1], 80):
                part = slice(block, block + 80)
                for _ in range(terms):
                    rest = weight[row, part] - found[row, part]
                    scale = rest.abs().max().clamp(min=1e-30) / 127
                    found[row, part] += scale * torch.round(rest / scale)
        return found

    model, H, handed_on = (
        copy.deepcopy(model),
        model.config.cell_size,
        3 + model.config.hand_size + model.config.num_chars,
    )
    for layer in model.layers:
        of_input, of_hidden, *_ = getattr(layer, "cell", layer).parameters()
        of_hidden.copy_(dequantise(of_hidden, 1))
        of_input[:, handed_on:] = dequantise(of_input[:, handed_on:], 1)
    for weight in [model.head.weight] + ([model.layers[0].window.weight] if model.config.num_chars else []):
        weight.copy_(torch.cat([dequantise(part, 2) for part in weight.split(H, dim=1)], dim=1))
    return model


def compiled_decoder(model, *given):
    """A decoder in C."""
    if not cells_room.load_library("step"):
        pytest.skip("there is no C compiler")
    make = kernels.pack_model(model)
    assert make.func is decoder_room.CompiledDecoder
    return make(*given)


@pytest.mark.parametrize(
    ("num_layers", "num_chars", "cell_size", "hand_size"),
    [(1, 0, 1, 0), (1, 6, 7, 0), (2, 6, 33, 5), (3, 0, 7, 3), (3, 6, 1, 0), (3, 6, 100, 64)],
)
@torch.no_grad()
def test_compiled_decoder_is_the_network_with_rounded_weights(num_layers, num_chars, cell_size, hand_size):
    model = make_model(num_layers, num_chars, cell_size=cell_size, hand_size=hand_size).float()
    model.matmul_dtype = torch.float32
    points, text = make_points(12, 6).float(), make_text(6, 5, [5, 3, 4, 1, 2, 5]) if num_chars else None
    hand = torch.randn(6, hand_size) if hand_size else None
    decoder = compiled_decoder(model, text, 6, hand)
    one = np.array([4])
    alone = compiled_decoder(
        model, text[one, : (text[4] >= 0).sum()] if num_chars else None, 1, hand[one] if hand_size else None
    )
    exact, lines = rounded(model), np.arange(6)
    whole, _, window = exact(points, model.one_hot(text) if num_chars else None, None, hand)
    for t, x in enumerate(points):
        if t in (3, 8):  # a line leaves, the others change places
            places = np.arange(len(lines))[:0:-1].copy()
            lines, decoder = lines[places], decoder.select(places)
        output, phi, kappa = decoder.step(x[lines].numpy())
        np.testing.assert_allclose(output, whole[t, lines].numpy(), rtol=1e-3, atol=3e-4)
        np.testing.assert_array_equal(alone.step(x[one].numpy())[0], output[lines == 4])  # bit by bit
        if num_chars:
            np.testing.assert_allclose(kappa[..., 0], window.kappa[t, lines].numpy(), rtol=1e-4, atol=1e-4)
            expected = window_weights(Window(*(p[t, lines] for p in window)), 6).numpy()
            for found, wanted, length in zip(phi, expected, (text[lines] >= 0).sum(1), strict=True):
                np.testing.assert_allclose(found[: length + 1], wanted[: length + 1], rtol=1e-3, atol=1e-4)
                assert (found[length + 1 :] == found[length]).all()


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e38])
@torch.no_grad()
def test_weights_that_8_bits_cannot_hold_are_left_to_others_or_right(value):
    model = make_model(2, 6).float()
    model.layers[1].weight_hh_l0[3, 2] = value
    make = kernels.pack_model(model)
    assert make is None or math.isfinite(value)
    if make:
        x, text = make_points(1, 1).float(), make_text(1, 5, [5])
        whole, _, _ = model(x, model.one_hot(text))
        np.testing.assert_allclose(make(text, 1).step(x[0].numpy())[0], whole[0].numpy(), rtol=0.02, atol=0.02)


@torch.no_grad()
def test_what_is_no_number_stays_so_in_c():
    model = make_model(3, 6).float()
    decoder, x = compiled_decoder(model, make_text(2, 5, [5, 4]), 2), make_points(2, 2).float().numpy()
    decoder.step(x[0])
    x[1, 0] = math.nan
    said = decoder.step(x[1])[0]
    assert np.isnan(said[0]).all() and np.isfinite(said[1]).all()
    assert np.isnan(decoder.step(x[0])[0][0]).all()


@torch.no_grad()
def test_without_a_compiler_writing_has_half_precision(monkeypatch):
    monkeypatch.setattr(decoder_room, "load_library", lambda name: None)
    assert kernels.pack_model(make_model(2, 6).float()).func is kernels.Decoder


@pytest.mark.parametrize("num_chars", [0, 6])
def test_bfloat16_products_stay_near_float32(num_chars, cells):
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


# --------------------------------------------------------------------------------------------- without kernels or parts


@pytest.mark.parametrize("num_chars", [0, 6])
def test_kernels_switched_off_give_the_same_losses_and_gradients(num_chars, monkeypatch):
    model, points = make_model(2, num_chars), make_points(13, 3) * 40
    text = make_text(3, 5, [5, 3, 4]) if num_chars else None
    mask = torch.arange(1, 13)[:, None] < torch.tensor([13, 8, 5])
    found = []
    for value in ("1", "0"):
        monkeypatch.setenv("HANDWRITING_KERNELS", value)
        losses, _ = model.losses(points, mask, text)
        found.append((losses, *torch.autograd.grad(losses.sum(), list(model.parameters()))))
    assert "Fused" not in graph_of(losses)
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ASTRAY)
def test_networks_gone_astray_have_the_same_losses_and_gradients(name, monkeypatch):
    model, points = astray(name).double(), make_points(40, 3) * 40
    model.matmul_dtype = torch.float64
    text = make_text(3, 5, [5, 3, 4]) if model.config.num_chars else None
    found = []
    for value in ("1", "0"):
        monkeypatch.setenv("HANDWRITING_KERNELS", value)
        losses, _ = model.losses(points, torch.ones(39, 3, dtype=torch.bool), text)
        found.append((losses, *torch.autograd.grad(losses.sum(), list(model.parameters()))))
    for a, b in zip(*found, strict=True):  # small gradients are differences of huge terms
        assert torch.isfinite(a).all() and (a - b).abs().max() <= 1e-9 * b.abs().max()


def graph_of(tensor: torch.Tensor) -> str:
    """The names of all operations that the tensor's gradient goes through."""
    seen, waiting = set(), [tensor.grad_fn]
    while waiting:
        function = waiting.pop()
        if function is not None and function not in seen:
            seen.add(function)
            waiting += [parent for parent, _ in function.next_functions]
    return " ".join(function.name() for function in seen)


@pytest.fixture
def project(tmp_path) -> Path:
    """A copy of the project that can be cut."""
    for path in [*ROOT.glob("*.py"), ROOT / "handwriting"]:
        if path.is_dir():
            shutil.copytree(path, tmp_path / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, tmp_path)
    return tmp_path


def test_the_project_works_without_the_folder(project, data_file):
    """Train, evaluate and write in a copy from which handwriting/kernels/ is deleted."""
    shutil.rmtree(project / "handwriting" / "kernels")
    code = """
import sys, generate, train
assert train.__file__.startswith(sys.argv[1])
def run(program, *arguments):
    sys.argv = [program.__file__, *arguments]
    program.main()
checkpoint, data = "save/synthesis_best.pt", sys.argv[2]
run(train, "--task", "synthesis", "--num_epochs", "1", "--cell_size", "8", "--processes", "1", "--data", data)
run(train, "--evaluate", checkpoint, "--data", data)
run(generate, "abc", "--checkpoint", checkpoint, "--retries", "0", "--output", "abc.svg")
"""
    (project / "run.py").write_text(code)
    command = [sys.executable, "run.py", str(project), str(data_file)]
    result = subprocess.run(command, cwd=project, env=environment(), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (project / "abc.svg").is_file()


def import_anew(monkeypatch, folder: Path, name: str) -> ModuleType:
    """Import a module as a new program would, with the project in that folder."""
    for loaded in [*sys.modules]:
        if loaded.split(".")[0] in ("handwriting", "model"):
            monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.syspath_prepend(folder)
    return importlib.import_module(name)


@pytest.mark.parametrize("leaves", [[], ["__pycache__"], ["__pycache__", "cells.c"]])
def test_kernels_that_were_deleted_are_not_missed(leaves, project, monkeypatch):
    folder = project / "handwriting" / "kernels"
    shutil.rmtree(folder)
    for name in leaves:  # an empty folder is a package without modules, for Python
        (folder / name).mkdir(parents=True)
    model = import_anew(monkeypatch, project, "model")
    assert Path(model.__file__).parent == project and model.kernels is None


@pytest.mark.parametrize("deleted", ["kernels/cells.py", "program.py"])
def test_a_module_that_is_missing_inside_the_kernels_is_told_by_its_name(deleted, project, monkeypatch):
    (project / "handwriting" / deleted).unlink()
    with pytest.raises(ModuleNotFoundError, match=deleted.removesuffix(".py").replace("/", r"\.")):
        import_anew(monkeypatch, project, "model")


@pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")
def test_the_c_file_is_compiled_once_if_it_can_be(project, tmp_path, monkeypatch, capsys):
    room = import_anew(monkeypatch, project, "handwriting.kernels.cells")
    libraries = Path(room.__file__).parent / "__pycache__"
    broken = tmp_path / "bin" / "cc"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    usual = os.environ["PATH"]

    def load(path):
        monkeypatch.setenv("PATH", path)
        room.load_library.cache_clear()
        return room.load_library("cells") is not None, capsys.readouterr().err

    found, note = load(str(broken.parent))
    assert not found and note.startswith("note:") and note.count("\n") == 1
    assert load("") == (False, "")  # no compiler
    assert load(usual) == (True, "")
    (library,) = libraries.glob("cells-*")
    assert library.suffix == ".so"
    library.unlink()
    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(lambda _: room.load_library.__wrapped__("cells"), range(3)))
    assert [*libraries.glob("cells-*")] == [library] and not capsys.readouterr().err
    assert load(str(broken.parent)) == (True, "")  # there already
    Path(room.__file__).with_name("cells.c").unlink()
    assert load(usual) == (False, "")


MISSING = {
    "mkldnn": ("_reorder_linear_weight", "HAS_BF16_PACKING"),
    "quantized": ("linear_prepack_fp16", "HAS_FP16_PACKING"),
}


@pytest.mark.parametrize("namespace", MISSING)
@torch.no_grad()
def test_without_a_private_operation_there_is_one_note_and_the_same_numbers(namespace, monkeypatch, capsys):
    operation, flag = MISSING[namespace]
    if not getattr(products, flag):
        pytest.skip(f"{operation} is not used on this processor")

    def gone(*arguments):
        raise RuntimeError("gone")

    monkeypatch.setattr(getattr(torch.ops, namespace), operation, gone)
    room = import_anew(monkeypatch, ROOT, "model")
    errors = capsys.readouterr().err
    assert errors.startswith("note:") and errors.count("\n") == 1
    assert not getattr(sys.modules["handwriting.kernels.products"], flag)
    torch.manual_seed(0)
    model, x = room.Model(room.Config(cell_size=7, num_clusters=3)), make_points(3, 1).float()
    for model.matmul_dtype in (torch.bfloat16, torch.float32):
        whole, _, _ = model(x)
    decoder = room.kernels.Decoder(model, None, 1)
    for point, expected in zip(x, whole, strict=True):
        np.testing.assert_allclose(decoder.step(point.numpy())[0], expected, rtol=0.02, atol=0.02)
    assert not capsys.readouterr().err


def test_decoder_works_without_the_switch_for_overriding(monkeypatch):
    if not products.HAS_FP16_PACKING:
        pytest.skip("half precision weights are not used on this processor")
    monkeypatch.delattr(torch._C, "DisableTorchFunctionSubclass")
    weight = torch.randn(5, 4)
    x = torch.randn(1, 4)
    torch.testing.assert_close(products.pack_linear_fp16(weight)(x), x @ weight.half().float().t())


@pytest.mark.parametrize(
    ("capabilities", "expected"), [({"avx512_bf16": True}, True), ({"avx2": True}, False), ({}, False)]
)
def test_bfloat16_is_wanted_where_the_processor_multiplies_it(capabilities, expected, monkeypatch):
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("oneDNN has no bfloat16 here")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert products.multiplies_bfloat16() is expected


@pytest.mark.parametrize(("factor", "expected"), [(0.5, True), (1.0, False), (2.0, False)])
def test_bfloat16_is_chosen_if_its_products_take_less_time(factor, expected, monkeypatch):
    """By a clock that the products themselves move on."""
    now, pack = [0.0], products.pack_linear

    def counted(weight, rows):
        product = pack(weight, rows)

        def count(*arguments):
            now[0] += factor if weight.dtype == torch.bfloat16 else 1.0
            return product(*arguments)

        return count

    monkeypatch.setattr(products, "pack_linear", counted)
    monkeypatch.setattr(products, "multiplies_bfloat16", lambda: True)
    monkeypatch.setattr(products.time, "perf_counter", lambda: now[0])
    assert products.multiplies_bfloat16_faster.__wrapped__() is expected
    monkeypatch.setattr(products, "multiplies_bfloat16", lambda: False)
    assert products.multiplies_bfloat16_faster.__wrapped__() is False
