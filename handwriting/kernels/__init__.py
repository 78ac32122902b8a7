"""The numbers of model.py, faster on a processor. Nothing needs this folder: without it all works, only slower.

`window_lstm`, `lstm`, `linear` and `mixture_losses` run over whole lines, with gradients in closed form; what
`pack_model` returns makes decoders, which read one point at a time, with rounded weights. `takes...` and `pack_model`
say whether a network is what they were made for; else the plain code computes it. HANDWRITING_KERNELS=0 in the
environment switches all off. Letters for shapes are those of model.py.
"""

from handwriting.kernels.decoder import Decoder, pack_model
from handwriting.kernels.layers import linear, lstm, takes, takes_window_lstm, window_lstm
from handwriting.kernels.mixture import mixture_losses, takes_mixture
from handwriting.kernels.products import can_run, multiplies_bfloat16_faster

__all__ = [
    "Decoder", "can_run", "linear", "lstm", "mixture_losses", "multiplies_bfloat16_faster", "pack_model", "takes",
    "takes_mixture", "takes_window_lstm", "window_lstm",
]  # fmt: skip
