"""Which lines a step learns from, and the tasks: each with its network, its batches, its loss and its averages."""

import argparse
import dataclasses
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from handwriting.alphabet import Alphabet
from handwriting.data.dataset import Dataset
from handwriting.encoder import EncoderConfig, HandEncoder, contrastive_losses, hand_features
from handwriting.recogniser import Recogniser, RecogniserConfig, collate_features, edit_distance, features
from handwriting.sampling import Sampler, default_steps, pad_codes
from handwriting.seeds import derived_seed
from handwriting.training.processes import Group
from model import Config, Model

NETWORK_SIZES = ("num_layers", "cell_size", "num_clusters", "K", "hand_size")  # flags that are in a `Config`
SAMPLE_LINES, SAMPLE_STEPS = 3, 700  # of a picture of samples; steps without a text
MOST_LINES, WITHOUT_HAND = 3, 0.1  # lines that a hand is taken from; the share of lines without a hand
MAX_REPEATED = 8  # times that a line with a rare character is seen where another one is seen once


def line_weights(texts: np.ndarray, rare_share: float) -> np.ndarray:
    """How often each line is seen, where a line of common characters alone is seen once, (N,), for texts (N,).

    A line is seen as if its rarest character was on `rare_share` of the lines, at most `MAX_REPEATED` times as often.
    """
    lines_with = Counter(character for text in texts for character in set(text))
    wanted = rare_share * len(texts)
    weights = [max([1.0, *(wanted / lines_with[character] for character in set(text))]) for text in texts.tolist()]
    return np.minimum(weights, MAX_REPEATED)


def sample_lines(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Indices of N lines for an epoch, (N,), for weights (N,): each as often as its weight asks, rounded up or down."""
    ends = np.cumsum(weights) / weights.sum() * len(weights)
    return np.searchsorted(ends, np.arange(len(weights)) + rng.uniform(), side="right").clip(max=len(weights) - 1)


def make_batches(lengths: np.ndarray, batch_size: int, rng: np.random.Generator | None = None) -> list[np.ndarray]:
    """Put lines of similar length together: arrays of indices into `lengths`.

    With `rng` in random order, and lengths blurred by up to 5 %, so that a line has other neighbours in each epoch.
    """
    key = lengths if rng is None else lengths * rng.uniform(0.95, 1.05, len(lengths))
    order = np.argsort(key, kind="stable")
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return batches if rng is None else [batches[i] for i in rng.permutation(len(batches))]


def change_hand(lines: list[np.ndarray], strength: float, rng: np.random.Generator) -> list[np.ndarray]:
    """Lines of one hand, (T, 3) each, with slant and the logarithms of width and height changed by normal noise."""
    width, height = np.exp(rng.normal(0, strength, 2))
    matrix = np.array([[width, 0], [rng.normal(0, strength), height]])  # of (x, y) as a row
    return [np.column_stack([points[:, :2] @ matrix, points[:, 2]]) for points in lines]


def collate(
    lines: list[np.ndarray], codes: list[Tensor] | None = None, device: torch.device | str = "cpu",
    hands: np.ndarray | None = None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    """Pad lines of points (T + 1, 3) in whiteboard units, and the codes (U,) of their texts, each to one length.

    Returns the arguments of `Model.losses`: points (T + 1, B, 3), mask (T, B), text (B, U), padded with -1, or None,
    and the hands (B, D) or None.
    """
    points, lengths = collate_features([line.astype(np.float32) for line in lines])
    mask = torch.arange(1, len(points))[:, None] < lengths  # (T, B)
    text = pad_codes(codes).to(device) if codes is not None else None
    hand = torch.from_numpy(hands).to(device) if hands is not None else None
    return points.to(device), mask.to(device), text, hand


def form_lines(dataset: Dataset, lines: np.ndarray) -> dict[int, np.ndarray]:
    """For each of some lines those recorded lines among them that are of its form, a page that one person wrote.

    a01-000u-03 is the third line of a01-000u. Lines that were made later have no such number: they have the form that
    their words are from, or stand for themselves.
    """
    names = {line: str(dataset.names[line]).rpartition("-") for line in lines.tolist()}
    recorded = defaultdict(list)
    for line, (form, _, number) in names.items():
        if number.isdigit():
            recorded[form].append(line)
    return {line: np.array(recorded.get(form, [line])) for line, (form, *_) in names.items()}


class Task:
    """What all tasks share. The loss is given for a line and a `unit`; the best network has the least `score`.

    Each adds its network, its batches and their loss, and what it measures in an evaluation.
    """

    def __init__(self, dataset: Dataset, with_text: bool, charset: str | None, timesteps: int = 10**9, augment=0.0):
        """On the dataset's lines with a text, or on all. `charset` is that of a checkpoint; None: the data's."""
        self.dataset, self.with_text, self.augment = dataset, with_text, augment
        self.most_points = timesteps + 1
        own = "".join(dataset.charset) if with_text else ""
        self.charset = own if charset is None else charset  # a character's code is its place here
        self.char_counts = dataset.char_counts.tolist() if with_text else []  # how often the training lines have each
        encode, texts = Alphabet(self.charset).encode, dataset.texts.tolist()
        self.codes = [torch.from_numpy(encode(text)) for text in texts] if self.charset else None  # (U,) each
        self.num_points = np.diff(dataset.starts)  # of each line

    @torch.no_grad()
    def evaluate(self, model: nn.Module, group: Group | None = None, batch_size: int = 50) -> dict[str, float]:
        """The task's `averages` over the whole validation split, and its `lines`: the same in all of the group."""
        group, was_training, sums = group or Group(), model.training, np.zeros(3)
        lines = self.dataset.lines("validation", self.with_text)
        batches = make_batches(self.num_points[lines], batch_size)
        model.eval()
        for start in range(group.rank, len(batches) + group.rank, group.size):  # a batch for each process at a time
            own = batches[start : start + 1]  # none for some, in the last round
            sums += group.sums(*(self.measure(model, lines[own[0]]) if own else [0.0] * 3))
        model.train(was_training)
        return self.averages(model, len(lines), *sums.tolist()) | {"lines": len(lines)}


class Writing(Task):
    """The tasks `rand_write` and `synthesis`: a `Model` learns to predict the next point, with a text or without."""

    unit, score = "point", "loss"

    def __init__(
        self, dataset: Dataset, with_text: bool, charset: str | None, timesteps: int = 10**9, augment: float = 0.0,
        encoder: HandEncoder | None = None,
    ):  # fmt: skip
        """With an `encoder` the network reads the hand of each line, from other lines of its form."""
        super().__init__(dataset, with_text, charset, timesteps, augment)
        self.encoder = encoder
        if encoder:
            self.form_lines = form_lines(dataset, np.arange(len(dataset.names)))
            self.vectors = np.full((len(dataset.names), encoder.config.hand_size), np.nan, np.float32)  # see `encode`

    def new_network(self, options: argparse.Namespace) -> Model:
        """An untrained network of the sizes asked for, with the data's statistics."""
        model = Model(Config(**{name: getattr(options, name) for name in NETWORK_SIZES}, num_chars=len(self.charset)))
        model.mean.copy_(torch.from_numpy(self.dataset.mean))
        model.std.copy_(torch.from_numpy(self.dataset.std))
        return self.with_hands(model)

    def with_hands(self, model: Model) -> Model:
        """A network with the statistics of the training forms' hands, which the encoder keeps."""
        if self.encoder:
            lines = self.dataset.lines("train", with_text=False)
            forms = {self.form_lines[line][0]: self.form_lines[line] for line in lines}
            means = [self.encode(each).mean(0) for each in forms.values() if len(each) > 1]
            self.encoder.set_forms(hands := torch.from_numpy(np.array(means)))  # (N, D)
            model.hand_mean.copy_(hands.mean(0))
            model.hand_std.copy_(hands.std(0, correction=0))
        return model

    def batch(self, lines: np.ndarray, device: torch.device, seeds: Sequence[int] | None = None) -> tuple:
        """The arguments of `Model.losses` for lines (B,): whole, or with seeds (B,) cut and changed for training.

        `Run.step` derives the seeds from its own, the step's number and the line's place in the batch.
        """
        points, hands = [self.dataset.points(line) for line in lines], None
        if seeds is not None:
            points = [line[: self.most_points] for line in points]
            if self.augment:
                rngs = map(np.random.default_rng, seeds)
                points = [change_hand([line], self.augment, rng)[0] for line, rng in zip(points, rngs, strict=True)]
        if self.encoder:
            hands = np.array([self.hand(*each) for each in zip(lines, seeds or [None] * len(lines), strict=True)])
        return collate(points, [self.codes[line] for line in lines] if self.codes else None, device, hands)

    def hand(self, line: int, seed: int | None) -> np.ndarray:
        """The hand that the network is given with a line, (D,): the mean vector of the other lines of its form.

        With a seed, for training, that of the line itself, as it is changed, and of up to `MOST_LINES` - 1 others of
        the form, changed alike; for a share of the lines no hand, NaN. Its own vector teaches the network to trust what
        it is given: others alone are a guess, and lead to the mean hand. That of a composed line tells its additions.
        """
        own = self.form_lines[line]
        if seed is None:
            return self.encode(own[own != line] if len(own) > 1 else own).mean(0)
        rng = np.random.default_rng(derived_seed("hand", seed))
        if rng.random() < WITHOUT_HAND:
            return np.full(self.vectors.shape[1], np.nan, np.float32)
        count = rng.integers(MOST_LINES)
        first = line if line in own else rng.choice(own)
        chosen = np.append(first, rng.choice(own[own != first], min(count, len(own) - 1), replace=False))
        if not self.augment:
            return self.encode(chosen).mean(0)
        points = [self.dataset.points(other) for other in chosen]
        return self.encoder.encode(change_hand(points, self.augment, np.random.default_rng(seed))).mean(0)

    def encode(self, lines: np.ndarray) -> np.ndarray:
        """The vectors (n, D) of lines as they are, each encoded by itself when it is first wanted."""
        for line in lines[np.isnan(self.vectors[lines, 0])].tolist():
            self.vectors[line] = self.encoder.encode([self.dataset.points(line)])[0]
        return self.vectors[lines]

    def loss(self, model: Model, batch: tuple) -> tuple[Tensor, int]:
        """The sum of a batch's losses in nats, (), and how many points it predicts. `Run.step` divides it by lines."""
        count = int(batch[1].sum())
        return model.losses(*batch)[0].sum(), count

    def measure(self, model: Model, lines: np.ndarray) -> list[float]:
        """Sums over lines (B,): losses in nats, squared errors, predicted points."""
        batch = self.batch(lines, model.mean.device)
        return [value.cpu().double().sum().item() for value in (*model.losses(*batch), batch[1])]

    def averages(self, model: Model, lines: int, nats: float, squares: float, points: float) -> dict[str, float]:
        """Nats a line and a point, normalised and (raw) in whiteboard units; sse: squared error a point, normalised.

        A density in whiteboard units is smaller by the product of the deviations.
        """
        scale = model.std.log().sum().item()
        return {
            "loss": nats / lines, "loss_raw": (nats + points * scale) / lines, "per_point": nats / points,
            "per_point_raw": nats / points + scale, "sse": squares / points, "points": points,
        }  # fmt: skip

    def sample(self, model: Model) -> list[np.ndarray]:
        """Lines that the network writes, finite points (T, 3): at random, or the validation split's first texts."""
        seeds, texts, steps = [*range(SAMPLE_LINES)], None, SAMPLE_STEPS
        if self.codes:
            chosen = np.resize(self.dataset.lines("validation", True), SAMPLE_LINES)
            texts = [self.codes[line].numpy() for line in chosen]
            steps = [default_steps(self.dataset.texts[line]) for line in chosen]
        was_training = model.training
        sampler = Sampler(model.eval(), Alphabet(self.charset).blank)
        lines = [line.points for line in sampler.write(texts, seeds, bias=0.5, steps=steps)]
        model.train(was_training)
        return [points for points in lines if len(points) > 1 and np.isfinite(points).all()]


class Reading(Task):
    """The task `read`: a `Recogniser` learns to read recorded lines."""

    unit, score = "character", "error_rate"  # the loss is infinite if one line has too few frames for its text

    def new_network(self, options: argparse.Namespace) -> Recogniser:
        """An untrained recogniser of the sizes asked for."""
        return Recogniser(RecogniserConfig(self.charset, num_layers=options.num_layers, cell_size=options.cell_size))

    def batch(self, lines: np.ndarray, device: torch.device, seeds: Sequence[int] | None = None) -> tuple:
        """Features, lengths and texts of lines (B,). With seeds (B,), for training, the ink is distorted."""
        rngs = [None] * len(lines) if seeds is None else map(np.random.default_rng, seeds)
        inks = [features(self.dataset.points(line), rng) for line, rng in zip(lines, rngs, strict=True)]
        x, lengths = collate_features(inks)
        return x.to(device), lengths.to(device), pad_codes([self.codes[line] for line in lines]).to(device)

    def loss(self, model: Recogniser, batch: tuple) -> tuple[Tensor, int]:
        """The sum of a batch's losses in nats, (), and how many characters it has."""
        count = int((batch[2] >= 0).sum())
        return model.losses(*model(*batch[:2]), batch[2]).sum(), count

    def measure(self, model: Recogniser, lines: np.ndarray) -> list[float]:
        """Sums over lines (B,): losses in nats, edit distances, characters."""
        x, lengths, text = self.batch(lines, model.head.weight.device)
        found = model(x, lengths)
        errors = sum(map(edit_distance, self.dataset.texts[lines].tolist(), model.texts_of(*found)))
        return [model.losses(*found, text).sum().item(), errors, int((text >= 0).sum())]

    def averages(self, _: Recogniser, lines: int, nats: float, errors: float, characters: float) -> dict[str, float]:
        """Loss (nats a line), per_character (nats) and error_rate (edit distance a character)."""
        return {"loss": nats / lines, "per_character": nats / characters, "error_rate": errors / characters}


class Hands(Task):
    """The task `hand`: a `HandEncoder` learns to tell which lines are of one form."""

    unit, score = "line", "error_rate"

    def __init__(self, dataset: Dataset, augment: float = 0.0):
        super().__init__(dataset, with_text=False, charset=None, augment=augment)
        self.form_lines = form_lines(dataset, np.arange(len(dataset.names)))
        self.forms = np.array([lines[0] for lines in self.form_lines.values()])  # (L,), the first line is its form's

    def new_network(self, options: argparse.Namespace) -> HandEncoder:
        """An untrained encoder of the sizes asked for."""
        return HandEncoder(EncoderConfig(options.hand_size, options.cell_size))

    def batch(self, lines: np.ndarray, device: torch.device, seeds: Sequence[int] | None = None) -> tuple:
        """Features and lengths of lines (B,) and then of a partner for each, (2B,), and the numbers of their forms.

        A partner is the line after it on its form. With seeds (B,), for training, it is any other one, both are made
        wider, higher and slanted alike, and they are cut at random.
        """
        inks = []
        for place, line in enumerate(lines.tolist()):
            own = self.form_lines[line]
            if seeds is None:
                partner = own[(np.searchsorted(own, line) + 1) % len(own)]
                inks.append([hand_features(self.dataset.points(each)) for each in (line, partner)])
            else:
                rng = np.random.default_rng(seeds[place])
                partner = rng.choice(own[own != line]) if len(own) > 1 else line
                pair = change_hand([self.dataset.points(each) for each in (line, partner)], self.augment, rng)
                inks.append([hand_features(points, rng) for points in pair])
        first, second = zip(*inks, strict=True)
        x, lengths = collate_features([*first, *second])
        return x.to(device), lengths.to(device), torch.from_numpy(self.forms[lines]).to(device)

    def loss(self, model: HandEncoder, batch: tuple) -> tuple[Tensor, int]:
        """The sum of a batch's losses in nats, (), and how many lines it is of."""
        losses, _ = contrastive_losses(model(*batch[:2]), batch[2])
        return losses.sum() / 2, len(batch[2])

    def measure(self, model: HandEncoder, lines: np.ndarray) -> list[float]:
        """Sums over lines (B,) and their partners: losses in nats, lines that are nearer to another form, lines."""
        batch = self.batch(lines, model.head.weight.device)
        losses, is_wrong = contrastive_losses(model(*batch[:2]), batch[2])
        return [losses.sum().item(), int(is_wrong.sum()), len(losses)]

    def averages(self, _: HandEncoder, __: int, nats: float, errors: float, lines: float) -> dict[str, float]:
        """Loss (nats a line) and error_rate: the share of lines to which one of another form is the nearest."""
        return {"loss": nats / lines, "error_rate": errors / lines}


def make_task(
    name: str, dataset: Dataset, timesteps: int = 10**9, charset: str | None = None, augment: float = 0.0,
    encoder: HandEncoder | None = None,
) -> Writing | Reading | Hands:  # fmt: skip
    """The task of a name, a key of `utils.NETWORKS`, with the character set of the data or of a checkpoint."""
    if name == "read":
        return Reading(dataset, True, charset)  # whole lines, distorted in its own way
    if name == "hand":
        return Hands(dataset, augment)
    return Writing(dataset, name == "synthesis", charset, timesteps, augment, encoder)


def change_characters(network: Model | Recogniser, old: str, new: str) -> Model | Recogniser:
    """A network for other characters: it knows those that it knew as before, and any other as the mean of them."""
    is_model = isinstance(network, Model)
    config = dataclasses.replace(network.config, **({"num_chars": len(new)} if is_model else {"charset": new}))
    changed = Model(config) if is_model else Recogniser(config)
    dim, first = (1, 3 + config.hand_size) if is_model else (0, 1)  # where weights of characters begin
    weights = changed.state_dict()  # the same memory
    for name, values in network.state_dict().items():
        if name.split(".")[-1].startswith("weight_ih") if is_model else name.startswith("head."):
            before, known, after = values.split([first, len(old), values.shape[dim] - first - len(old)], dim)
            parts = [known.select(dim, old.index(c)) if c in old else known.mean(dim) for c in new]
            values = torch.cat([before, torch.stack(parts, dim), after], dim)
        weights[name].copy_(values)
    return changed


def grow(network: Model, num_layers: int, hand_size: int) -> Model:
    """A network of more layers, or one that reads hands, that computes the same: the new has no weight yet."""
    larger = Model(dataclasses.replace(network.config, num_layers=num_layers, hand_size=hand_size))
    nn.init.zeros_(larger.head.weight)
    weights, new = larger.state_dict(), hand_size - network.config.hand_size  # the same memory; new columns
    for name, values in network.state_dict().items():
        if new and name.split(".")[-1].startswith("weight_ih"):  # those of the hand come after those of the point
            values = torch.cat([values[:, :3], values.new_zeros(len(values), new), values[:, 3:]], dim=1)
        weights[name][tuple(map(slice, values.shape))] = values  # those of the first layers come first
    return larger
