"""The soft window over whole lines, forwards and backwards."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# exp(-60) is nothing beside the other Gaussians. Smaller numbers are stored denormalised from exp(-88) on, and a
# processor is ten times as slow on those.
MIN_EXPONENT = -60.0


class FusedWindow:
    """The window of a `WindowLSTM` at T points of B lines, forwards (eq. 46-51) and backwards (eq. 56-60).

    `forward` is called for t from 0 upwards; then, any number of times, `start_backward`, `backward` downwards, and
    `parameter_gradients`. What has one value for each Gaussian has the shape (B, K, 1). A plural name is a tensor,
    its singular the list of its parts, by t.
    """

    def __init__(self, T: int, keep: bool, layer: nn.Module, characters: Tensor, kappa: Tensor):
        """characters (B, U, C), kappa (B, K) before the first point. `keep` what the way back needs, or else not."""
        (B, K), (_, U, C) = kappa.shape, characters.shape
        self.weight, self.bias, self.max_log = layer.window.weight.detach(), layer.window.bias.detach(), layer.max_log
        self.weight_t, self.characters = self.weight.t(), characters
        self.u = torch.arange(1, U + 1, dtype=kappa.dtype, device=kappa.device)
        self.parameters = kappa.new_empty(T, B, 3 * K)  # alpha, beta, and what kappa advances by
        self.kappas = kappa.new_empty(T + 1, B, K, 1)  # kappas[t + 1] is that of point t
        self.kappas[0] = kappa[..., None]
        self.kappa, self.rows = self.kappas.unbind(0), self.parameters.unbind(0)
        self.alpha, self.beta, self.advance = (p[..., None].unbind(0) for p in self.parameters.chunk(3, dim=2))
        # The Gaussians, without alpha; if there is no way back, those of all points are in the same memory.
        self.bells = kappa.new_empty(T if keep else 1, B, K, U).expand(T, B, K, U)
        self.bell = self.bells.unbind(0)
        self.phi, self.w = (kappa.new_empty(B, 1, size) for size in (U, C))

    def forward(self, t: int, h: Tensor) -> Tensor:
        """h (B, H) of point t -> its window w (B, 1, C), valid until the next call."""
        torch.addmm(self.bias, h, self.weight_t, out=self.rows[t]).clamp_(max=self.max_log).exp_()  # (eq. 48-50)
        torch.add(self.kappa[t], self.advance[t], out=self.kappa[t + 1])  # (eq. 51)
        exponent = torch.sub(self.kappa[t + 1], self.u, out=self.bell[t])  # (B, K, U)
        bell = exponent.square_().mul_(self.beta[t]).neg_().clamp_(min=MIN_EXPONENT).exp_()
        torch.bmm(self.alpha[t].mT, bell, out=self.phi)  # (eq. 46)
        return torch.bmm(self.phi, self.characters, out=self.w)  # (eq. 47)

    def start_backward(self, d_kappas: Tensor) -> None:
        """d_kappas (T, B, K): the gradient of the loss by the kappas."""
        self.characters_t = self.characters.transpose(1, 2).contiguous()  # (B, C, U)
        # What is clamped has gradient 0. The 1.0001 and 0.9999: the last digits of two exponentials may differ.
        F.threshold_(self.bells, 1.0001 * math.exp(MIN_EXPONENT), 0.0)  # (exponentials of -inf take ten times as long)
        factors = (self.parameters < 0.9999 * math.exp(self.max_log)).to(self.parameters.dtype)
        factors.chunk(3, dim=2)[1].neg_()  # the minus of (eq. 58)
        self.factors = factors.unbind(0)
        self.d_parameters = torch.empty_like(self.parameters)  # before the exponential of (eq. 49-51)
        self.d_rows = self.d_parameters.unbind(0)
        self.d_alpha, self.d_beta, self.d_advance = (p[..., None].unbind(0) for p in self.d_parameters.chunk(3, dim=2))
        self.d_kappas, self.d_kappa = d_kappas[..., None].unbind(0), torch.zeros_like(self.kappas[0])
        self.distance, self.d_phi = torch.empty_like(self.bell[0]), torch.empty_like(self.phi)
        self.epsilons = self.phi.new_empty(3, *self.distance.shape)  # epsilon times 1, kappa - u, and (kappa - u)^2
        self.moments = self.phi.new_empty(3, *self.d_kappa.shape)  # their sums over u
        self.epsilon, self.moment = self.epsilons.unbind(0), self.moments.unbind(0)

    def backward(self, t: int, d_w: Tensor, d_h: Tensor) -> None:
        """d_w (B, 1, C), and d_h (B, H) from elsewhere, to which is added what comes through the window."""
        (epsilon, epsilon_1, epsilon_2), (moment_0, moment_1, moment_2) = self.epsilon, self.moment
        distance = torch.sub(self.kappa[t + 1], self.u, out=self.distance)  # (B, K, U)
        torch.mul(self.bell[t], self.alpha[t], out=epsilon)
        epsilon.mul_(torch.bmm(d_w, self.characters_t, out=self.d_phi))  # (eq. 56): alpha bell (d_w . character)
        torch.mul(epsilon, distance, out=epsilon_1)
        torch.mul(epsilon_1, distance, out=epsilon_2)
        torch.sum(self.epsilons, 3, keepdim=True, out=self.moments)
        self.d_alpha[t].copy_(moment_0)  # (eq. 57)
        torch.mul(moment_2, self.beta[t], out=self.d_beta[t])  # (eq. 58), its sign is in `factors`
        self.d_kappa.add_(self.d_kappas[t]).addcmul_(self.beta[t], moment_1, value=-2)  # (eq. 59)
        torch.mul(self.advance[t], self.d_kappa, out=self.d_advance[t])  # (eq. 60)
        d_h.addmm_(self.d_rows[t].mul_(self.factors[t]), self.weight)

    def parameter_gradients(self, hiddens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Given h (T, B, H) the gradients by the window's weight and bias, and by the first kappa (B, K)."""
        d_parameters = self.d_parameters.flatten(0, 1)
        d_weight = d_parameters.t().to(hiddens.dtype) @ hiddens.flatten(0, 1)
        return d_weight.to(d_parameters.dtype), d_parameters.sum(0), self.d_kappa[..., 0]
