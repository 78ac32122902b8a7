"""The hand encoder: ink in, a vector out that says whose hand it is, whatever the ink says.

It learns that lines of one form, a page that one person wrote, belong together (Chen et al., "A Simple Framework for
Contrastive Learning of Visual Representations", 2020). It is trained by `train.py --task hand` on recorded training
lines, and needs no text. Shapes are written with these letters:

    N  resampled points of a line    F  features of a point    B  lines of a batch    D  numbers of a vector
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handwriting.recogniser import FEATURES, collate_features, features, take_out_slope
from handwriting.strokes import to_strokes

STRIDES = (1, 2, 2, 1)  # of the convolutions, five points wide each
TEMPERATURE = 0.07  # the cosines of vectors are divided by it
USUAL_SPREAD = 100.0  # whiteboard units: a usual standard deviation of a line's height
CROPS = (0.4, 0.8)  # shares of a line that it learns from, so that it looks at the hand and not at the text
ENCODE_BATCH, MULTIPLE = 32, 64  # lines encoded at once; their points are padded to a multiple: new lengths cost time
BOUNDS = dict(hand_size=(2, 1000), channels=(2, 10**5))
# What is written in a hand is nearer to the mean than the hand is. So the network is given vectors that are moved away
# from it by this factor, which makes lines more like the hand, and less legible, or `steering` knows better.
GAIN = 1.25


@dataclass(frozen=True)
class EncoderConfig:
    """The sizes of an encoder: the numbers of its vectors, and the channels of its convolutions."""

    hand_size: int = 64
    channels: int = 176

    def __post_init__(self):
        for name, (least, most) in BOUNDS.items():
            if type(value := getattr(self, name)) is not int or not least <= value <= most:
                raise ValueError(f"{name} must be a whole number from {least} to {most}, not {value!r}")


def hand_features(points: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
    """What the encoder sees of a line, points (T, 3) in whiteboard units: (N, F) float32.

    As the recogniser's `features`, at equal steps along the ink, and how large the line is. With an `rng` it is a part
    of the line, for training.
    """
    found = features(points)
    spread = take_out_slope(to_strokes(points))[1].std()
    found = np.column_stack([found, np.full(len(found), np.log(max(spread, 1e-6) / USUAL_SPREAD), np.float32)])
    if rng is None:
        return found
    length = max(1, round(len(found) * rng.uniform(*CROPS)))
    start = rng.integers(len(found) - length + 1)
    return found[start : start + length]


class HandEncoder(nn.Module):
    """Features of ink -> a vector of length 1: convolutions, and the mean and deviation of each channel of a line.

    `forms` (N, D) are the vectors of the training forms of the network that reads them, none before there is one, and
    `steering` (D + 1, D) is how to give it a hand, see `hands.steer`. `benchmarks/steering.py` finds better ones.
    """

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config, self.matmul_dtype = config, torch.float32
        self.set_forms(torch.zeros(0, config.hand_size))
        widths = (FEATURES + 1, config.channels // 2, *[config.channels] * 3)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(inputs, outputs, 5, stride, padding=2)
            for inputs, outputs, stride in zip(widths[:-1], widths[1:], STRIDES, strict=True)
        )
        self.head = nn.Linear(2 * config.channels, config.hand_size)

    def set_forms(self, forms: Tensor) -> None:
        """Take the vectors of training forms (N, D); how the network follows them is not known yet."""
        self.forms, identity = forms, torch.eye(self.config.hand_size)
        self.steering = torch.cat([GAIN * identity, torch.zeros_like(identity[:1])])

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Features (N, B, F) of lines of `lengths` (B,) points -> vectors (B, D) of length 1."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.matmul_dtype == torch.bfloat16):
            lengths, x = lengths.to(x.device), x.permute(1, 2, 0)  # (B, F, N)
            for convolution, stride in zip(self.convolutions, STRIDES, strict=True):
                x = F.relu(convolution(x))
                lengths = (lengths - 1) // stride + 1
                inside = (torch.arange(x.shape[2], device=x.device) < lengths[:, None])[:, None]  # (B, 1, N)
                x = x * inside  # padding stays zero
        x, count = x.to(self.head.weight.dtype), lengths[:, None]
        mean = x.sum(2) / count
        variance = ((x - mean[..., None]).square() * inside).sum(2) / count
        return F.normalize(self.head(torch.cat([mean, (variance + 1e-5).sqrt()], dim=1)), dim=1)

    def digest(self) -> str:
        """A hash of the weights in half precision, as they ship."""
        found = hashlib.sha256()
        for value in self.state_dict().values():
            found.update(value.half().numpy(force=True).tobytes())
        return found.hexdigest()[:16]

    @torch.inference_mode()
    def encode(self, lines: list[np.ndarray]) -> np.ndarray:
        """The vectors (B, D) float32 of lines of ink, points (T, 3) in whiteboard units each."""
        found = []
        for start in range(0, len(lines), ENCODE_BATCH):
            x, lengths = collate_features([hand_features(line) for line in lines[start : start + ENCODE_BATCH]])
            x = F.pad(x, (0, 0, 0, 0, 0, -len(x) % MULTIPLE))
            found.append(self(x.to(self.head.weight.device), lengths).cpu())
        return torch.cat(found).numpy()


def contrastive_losses(vectors: Tensor, forms: Tensor) -> tuple[Tensor, Tensor]:
    """How badly each line finds its partner among all lines of a batch, given two lines of each of B forms.

    vectors (2B, D): the first lines of the forms, then the second ones in the same order; forms (B,), their numbers.
    Returns the losses (2B,), cross-entropies in nats of the cosines by `TEMPERATURE`, and whether another form's line
    is nearer (2B,). Of two pairs of one form, neither counts as another's.
    """
    forms, places = forms.repeat(2), torch.arange(len(vectors), device=vectors.device)
    partners = places.roll(len(vectors) // 2)
    is_other = (forms[:, None] != forms) | (places == partners[:, None])
    logits = (vectors @ vectors.T / TEMPERATURE).masked_fill(~is_other, -torch.inf)
    return F.cross_entropy(logits, partners, reduction="none"), logits.argmax(1) != partners
