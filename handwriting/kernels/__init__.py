"""The numbers of model.py, faster on a processor. Nothing needs this folder: without it all works, only slower.

`window_lstm`, `lstm` and `linear` run over whole lines, with gradients in closed form (layers.py, window.py, cells.py,
cells.c); `Decoder` reads one point at a time (decoder.py). Each takes only what it was made for: `takes_window_lstm`,
`takes_lstm`, `takes_linear` and `pack_model` say whether it is that, and the rest is left to the plain code.
HANDWRITING_KERNELS=0 in the environment switches all of them off. Letters for shapes are those of model.py.
"""

from handwriting.kernels.decoder import Decoder, PackedWeights, pack_model
from handwriting.kernels.layers import linear, lstm, takes_linear, takes_lstm, takes_window_lstm, window_lstm
from handwriting.kernels.products import can_run, multiplies_bfloat16

__all__ = [
    "Decoder", "PackedWeights", "can_run", "linear", "lstm", "multiplies_bfloat16", "pack_model", "takes_linear",
    "takes_lstm", "takes_window_lstm", "window_lstm",
]  # fmt: skip
