"""The numbers of model.py, faster on a processor. Nothing needs this folder: without it all works, only slower.

`lstm`, `window_lstm` and `linear` run over whole lines, with gradients in closed form (layers.py, cells.py, cells.c);
`Decoder` reads one point at a time (decoder.py). HANDWRITING_KERNELS=0 in the environment switches all of them off.
Letters for shapes are those of model.py.

Gates stand in the order output, input, forget, candidate: the three sigmoids are neighbours, and so are the three that
lead to the cell. `gate_weights` brings PyTorch's order (input, forget, candidate, output) to this one.
"""

from handwriting.kernels.decoder import Decoder, PackedWeights
from handwriting.kernels.layers import linear, lstm, window_lstm
from handwriting.kernels.products import can_run, multiplies_bfloat16

__all__ = ["Decoder", "PackedWeights", "can_run", "linear", "lstm", "multiplies_bfloat16", "window_lstm"]
