"""A recogniser of handwriting: it reads the ink that the network writes, to tell whether it says the text.

Pen strokes go through convolutions and bidirectional LSTMs, trained by connectionist temporal classification: Graves
et al., "Connectionist Temporal Classification" (ICML 2006). It is trained by `train.py --task read` on recorded lines
only. Shapes are written with these letters:

    T  points of a line    N  resampled points    F  features of a point    S  frames, of four points each
    B  lines of a batch    U  characters          C  size of the alphabet   H  cells of an LSTM in each direction
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handwriting.ink.geometry import resample
from handwriting.strokes import to_strokes

SPACING = 1 / 3  # between resampled points, in standard deviations of a line's height: some 15 points a character
FEATURES = 6
STRIDES = (1, 2, 2)  # of the convolutions, five points wide each
READ_BATCH = 32  # lines read at once
READ_PADDING = 64  # lengths are rounded up to it: PyTorch keeps a program in memory for each that it has met
MAX_POINTS = 20_000  # resampled points of a line; recorded lines have at most some 1,500
BLANK = 0  # the label of no character (CTC); character number c of the alphabet has the label c + 1
BOUNDS = dict(num_layers=(int, 1, 1000), cell_size=(int, 1, 10**5), channels=(int, 2, 10**5), dropout=(float, 0, 0.999))


@dataclass(frozen=True)
class RecogniserConfig:
    """The alphabet and the sizes of a recogniser. A character's code is its place in `charset`."""

    charset: str
    num_layers: int = 3
    cell_size: int = 144
    channels: int = 96
    dropout: float = 0.2

    def __post_init__(self):
        for name, (kind, least, most) in BOUNDS.items():
            if type(value := getattr(self, name)) not in (int, kind) or not least <= value <= most:
                raise ValueError(f"{name} must be a number from {least} to {most}, not {value!r}")

    @property
    def num_chars(self) -> int:
        """The size of the alphabet."""
        return len(self.charset)


def take_out_slope(strokes: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """x and y (n,) of all points of strokes, in their unit, about 0 and without slope."""
    x, y = np.concatenate(strokes).T
    x = x - x.mean()
    # A slope only counts where the line is long: that of a single letter is its shape.
    slope = (x @ y) / (x @ x) if np.ptp(x) > 4 * np.ptp(y) else 0.0
    return x, y - y.mean() - slope * x


def straighten(strokes: list[np.ndarray]) -> list[np.ndarray]:
    """Strokes (n, 2) in any unit -> the same with slope taken out, y about 0, and a standard deviation of y of 1."""
    x, y = take_out_slope(strokes)
    points = np.column_stack([x, y]) / max(y.std(), 1e-6)
    return np.split(points, np.cumsum([len(stroke) for stroke in strokes])[:-1])


def distort(strokes: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Straightened strokes in another hand: wider, higher, slanted, rotated and shaken a little."""
    width, height = np.exp(rng.normal(0, 0.12, 2))
    slant, rotation = rng.normal(0, 0.2), rng.normal(0, 0.01)
    matrix = np.array([[width, rotation], [slant, height]])  # of (x, y) as a row
    shaking = rng.uniform(0, 0.05)
    return [stroke @ matrix + rng.normal(0, shaking, stroke.shape) for stroke in strokes]


def features(points: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
    """What the network sees of a line, points (T, 3) in whiteboard units: (N, F) float32.

    With an `rng` the ink is distorted first. A resampled point has: its offset from the one before within the stroke
    (2); its offset from the end of the stroke before, compressed (2); its height; and whether it begins a stroke.
    """
    strokes, spacing = straighten(to_strokes(points)), SPACING
    if rng is not None:
        strokes, spacing = distort(strokes, rng), SPACING * np.exp(rng.normal(0, 0.1))
    length = sum(np.hypot(*np.diff(stroke, axis=0).T).sum() for stroke in strokes)
    spacing = max(spacing, length / MAX_POINTS)  # flat ink is very long beside its height
    strokes = [resample(stroke, spacing) for stroke in strokes]
    strokes = [stroke if len(stroke) > 1 else stroke.repeat(2, axis=0) for stroke in strokes]  # a dot has two ends, too
    begins = np.concatenate([np.arange(len(stroke)) == 0 for stroke in strokes])
    path = np.concatenate(strokes)  # (N, 2)
    offsets = np.diff(path, axis=0, prepend=path[:1])
    within = np.where(begins[:, None], 0, offsets / SPACING)
    jumps = np.where(begins[:, None], np.arcsinh(2 * offsets), 0)
    return np.column_stack([within, jumps, path[:, 1], begins]).astype(np.float32)


def collate_features(lines: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Lines of features (N, F) -> padded (N, B, F), and their lengths (B,)."""
    return nn.utils.rnn.pad_sequence([torch.from_numpy(line) for line in lines]), torch.tensor([*map(len, lines)])


class BidirectionalLSTM(nn.Module):
    """Two LSTMs, one of them from the end of each line to its beginning. What pads a line has no effect on it."""

    def __init__(self, inputs: int, cell_size: int):
        super().__init__()
        self.forwards, self.backwards = nn.LSTM(inputs, cell_size), nn.LSTM(inputs, cell_size)

    def forward(self, x: Tensor, turned: Tensor) -> Tensor:
        """x (S, B, I); turned (S, B), for each frame the one as far from its line's end. Returns (S, B, 2H)."""

        def turn(y: Tensor) -> Tensor:
            return y.gather(0, turned[..., None].expand_as(y))

        return torch.cat([self.forwards(x)[0], turn(self.backwards(turn(x))[0])], dim=-1)


class Recogniser(nn.Module):
    """Features of ink -> log probabilities of labels, four points to a frame.

    Set `matmul_dtype` to torch.bfloat16 for faster products; parameters, probabilities and loss stay float32.
    """

    def __init__(self, config: RecogniserConfig):
        super().__init__()
        self.config, self.matmul_dtype, H = config, torch.float32, config.cell_size
        widths = (FEATURES, config.channels // 2, config.channels, config.channels)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(inputs, outputs, 5, stride, padding=2)
            for inputs, outputs, stride in zip(widths[:-1], widths[1:], STRIDES, strict=True)
        )
        self.layers = nn.ModuleList(
            BidirectionalLSTM(2 * H if n else config.channels, H) for n in range(config.num_layers)
        )
        self.head = nn.Linear(2 * H, config.num_chars + 1)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, B, F) of lines of `lengths` (B,) points -> log probabilities (S, B, C + 1), frames (B,)."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.matmul_dtype == torch.bfloat16):
            lengths = lengths.to(x.device)
            x = x.permute(1, 2, 0)  # (B, F, N)
            for convolution in self.convolutions:
                x = F.relu(convolution(x))
                lengths = (lengths - 1) // convolution.stride[0] + 1
                x = x * (torch.arange(x.shape[2], device=x.device) < lengths[:, None])[:, None]  # padding stays zero
            x = x.permute(2, 0, 1)  # (S, B, channels)
            frames = torch.arange(len(x), device=x.device)[:, None]
            turned = torch.where(frames < lengths, lengths - 1 - frames, frames)  # (S, B)
            for layer in self.layers:
                x = F.dropout(layer(x, turned), self.config.dropout, self.training)  # (S, B, 2H)
            labels = self.head(x)
        return labels.to(self.head.weight.dtype).log_softmax(-1), lengths

    def losses(self, log_probabilities: Tensor, frames: Tensor, text: Tensor) -> Tensor:
        """Loss of each line in nats (B,) (CTC), for what `forward` returns and text (B, U), -1 for padding.

        A line with too few frames for its text has loss 0 in training, to teach nothing, and else an infinite one.
        """
        targets = text + 1, frames, (text >= 0).sum(1)
        return F.ctc_loss(log_probabilities, *targets, BLANK, reduction="none", zero_infinity=self.training)

    def read(self, lines: list[np.ndarray], rng: np.random.Generator | None = None) -> list[str]:
        """What stands in each line, points (T, 3) in whiteboard units; "" for ink that is not finite or is none.

        With an `rng` the ink is distorted first: what is hardly a letter is read as another one then.
        """
        return [text for text, _ in self.read_with_doubt(lines, rng)]

    @torch.inference_mode()
    def read_with_doubt(
        self, lines: list[np.ndarray], rng: np.random.Generator | None = None
    ) -> list[tuple[str, float]]:
        """What stands in each line, as for `read`, and how unlikely its labels are: in nats a character.

        Recorded lines have some 0.1, those that are upside down 0.4, and random strokes 0.9.
        """
        found = [("", np.inf)] * len(lines)
        seen = {n: features(points, rng) for n, points in enumerate(lines) if len(points) and np.isfinite(points).all()}
        order = sorted(seen, key=lambda n: len(seen[n]))  # lines of like length together
        for start in range(0, len(order), READ_BATCH):
            chosen = order[start : start + READ_BATCH]
            x, lengths = collate_features([seen[n] for n in chosen])
            x = F.pad(x, (0, 0, 0, 0, 0, -len(x) % READ_PADDING))
            log_probabilities, frames = self(x.to(self.head.weight.device), lengths)
            is_frame = torch.arange(len(log_probabilities), device=frames.device)[:, None] < frames
            doubts = -(log_probabilities.amax(-1) * is_frame).sum(0)
            for n, text, doubt in zip(chosen, self.texts_of(log_probabilities, frames), doubts.tolist(), strict=True):
                found[n] = text, doubt / max(len(text), 1)
        return found

    def texts_of(self, log_probabilities: Tensor, frames: Tensor) -> list[str]:
        """Each line's text for what `forward` returns: the likeliest label of each frame, less repeats and blanks."""
        labels = log_probabilities.argmax(-1).T.cpu()  # (B, S)
        lines = (torch.unique_consecutive(line[:count]) for line, count in zip(labels, frames.tolist(), strict=True))
        return ["".join(self.config.charset[label - 1] for label in line[line != BLANK].tolist()) for line in lines]


def align(text: Sequence[str], read: Sequence[str]) -> list[tuple[str, str]]:
    """The cheapest way to turn `text` into `read`, as pairs of characters or words; "" where one has none to pair with.

    The number of unequal pairs is the edit distance (Levenshtein).
    """
    if text == read:
        return list(zip(text, read, strict=True))
    costs = [[*range(len(read) + 1)]]  # lists: numpy takes three times as long for single numbers
    for i, a in enumerate(text, 1):
        above, row = costs[-1], [i]
        for j, b in enumerate(read, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a != b)))
        costs.append(row)
    pairs, i, j = [], len(text), len(read)
    while i or j:
        if i and j and costs[i][j] == costs[i - 1][j - 1] + (text[i - 1] != read[j - 1]):
            i, j = i - 1, j - 1
            pairs.append((text[i], read[j]))
        elif i and costs[i][j] == costs[i - 1][j] + 1:
            i -= 1
            pairs.append((text[i], ""))
        else:
            j -= 1
            pairs.append(("", read[j]))
    return pairs[::-1]


def edit_distance(text: str, read: str) -> int:
    """How many characters must be changed, left out or added to turn `text` into `read` (Levenshtein)."""
    return sum(a != b for a, b in align(text, read))
