"""How a network follows the hands that it is given, and how to give it hands so that it writes them better.

    python benchmarks/steering.py --checkpoint save/synthesis_best.pt --output save/synthesis.pt

It writes some lines in the hand of each training form, whose vector the encoder tells, and a recogniser reads them.
From that and from recorded lines follows, by linear regressions:

- what two lines of a form tell of the others: a vector of two lines has what is of these lines alone, too; this is
  moved `GAIN` times as far from the mean;
- where the lines are on the mean, and what share of a hand's distance from the mean they have: what is added to all
  hands brings the mean of the lines to that of the hands;
- what share of the characters a recogniser reads wrong in a hand: all hands are moved to where it is `FEWER` less, in
  the way in which legible forms differ from others.

This becomes `steering`, and hands that are `STRENGTH` times as far from the mean `forms`, of the encoder in the
network's file. Hands that follow from seeds lie between two of `forms`.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent.parent))
from handwriting.alphabet import Alphabet
from handwriting.checks import load_recogniser
from handwriting.data.dataset import Dataset, load_dataset
from handwriting.encoder import HandEncoder
from handwriting.hands import steer
from handwriting.program import InputError, Parser, check_writable, escaped, run_cli
from handwriting.recogniser import edit_distance
from handwriting.sampling import Sampler, default_steps
from handwriting.training.tasks import form_lines
from model import Model
from utils import encoder_of, load_checkpoint, save_checkpoint

BIAS, TOGETHER = 0.5, 64  # lines that are written at once
GIVEN = 2  # lines that a hand is taken from
GAIN, FEWER = 1.9, 0.065
STRENGTH = 0.68
RIDGE = 10.0  # what the square of a map costs, in squared errors
LINES = 2  # that are written in each form's hand


class Written(NamedTuple):
    """What was written in some hands."""

    vectors: np.ndarray  # (N, D), the encoder's, of the lines
    wrong: np.ndarray  # (N,), the share of characters that the recogniser reads wrong


def write_in(hands: np.ndarray, model: Model, encoder: HandEncoder, charset: str, texts: list[str]) -> Written:
    """Write a line for each of the hands (N, D) that the network is given, with the texts in turn."""
    recogniser, alphabet, vectors, wrong = load_recogniser(), Alphabet(charset), [], []
    sampler = Sampler(model, alphabet.blank)
    texts, given = [texts[n * len(texts) // len(hands)] for n in range(len(hands))], hands.astype(np.float32)
    for start in tqdm(range(0, len(hands), TOGETHER), disable=None):
        part = slice(start, start + TOGETHER)
        codes, steps = [*map(alphabet.encode, texts[part])], [*map(default_steps, texts[part])]
        lines = sampler.write(codes, [*range(start, start + len(steps))], BIAS, steps, hands=given[part])
        inks = [line.points for line in lines]
        vectors.append(encoder.encode(inks))
        wrong += [edit_distance(*pair) / len(pair[0]) for pair in zip(texts[part], recogniser.read(inks), strict=True)]
    return Written(np.concatenate(vectors), np.array(wrong))


def regress(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The map (D, ...) by which y (N, ...) follows from x (N, D), both without a mean: ridge regression."""
    return np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ y)


def pairs_of_forms(dataset: Dataset, encoder: HandEncoder) -> tuple[np.ndarray, np.ndarray]:
    """The mean vectors of `GIVEN` lines of each training form with more lines, and of its others, (N, D) both."""
    lines = dataset.lines("train", with_text=False)
    groups = {int(own[0]): own for own in form_lines(dataset, lines).values() if len(own) >= 2 * GIVEN}.values()
    if not groups:
        raise InputError(f"no form has {2 * GIVEN} training lines to tell how much two of them say of its hand")
    vectors = [encoder.encode([dataset.points(line) for line in own]) for own in groups]
    first, others = zip(*((own[:GIVEN].mean(0), own[GIVEN:].mean(0)) for own in vectors), strict=True)
    return np.array(first), np.array(others)


def find_steering(
    hands: np.ndarray, written: Written, pairs: tuple[np.ndarray, np.ndarray], mean: np.ndarray
) -> np.ndarray:
    """How to give hands, (D + 1, D): see `hands.steer`. `hands` (N, D) were given as they are to write what is written.

    What is added brings the mean of what is written to that of the hands, and makes it legible.
    """
    (first, others), centred = (each - mean for each in pairs), hands - hands.mean(0)
    share = (centred * written.vectors).sum() / np.square(centred).sum()  # of a hand's distance that lines have
    added = (hands.mean(0) - written.vectors.mean(0)) / share
    slope = regress(centred, written.wrong - written.wrong.mean())
    way = np.cov(centred.T) @ slope
    added -= FEWER * way / max(slope @ way, 1e-12)
    return np.vstack([GAIN * regress(first, others), added]).astype(np.float32)


def make_follow(model: Model, encoder: HandEncoder, charset: str, dataset: Dataset) -> None:
    """Give an encoder better `steering` and `forms`, and print what was found."""
    forms, mean = encoder.forms.numpy(), model.get_buffer("hand_mean").numpy()
    texts = dataset.texts[dataset.lines("train", with_text=True)].tolist()
    given = steer(np.repeat(forms, LINES, axis=0), model, encoder)
    written = write_in(given, model, encoder, charset, texts)
    encoder.steering = torch.from_numpy(find_steering(given, written, pairs_of_forms(dataset, encoder), mean))
    encoder.forms = torch.from_numpy((forms.mean(0) + STRENGTH * (forms - forms.mean(0))).astype(np.float32))
    off = np.linalg.norm(written.vectors.mean(0) - forms.mean(0))
    print(f"in the hands of {len(forms)} forms {written.wrong.mean():.1%} of the characters are wrong,")
    print(f"and the mean of the lines is {off:.2f} from that of the hands")


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = Parser(description="Make a network follow hands better, and its own hands legible.")
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="the network, as train.py wrote it")
    add("--data", type=Path, default=Path("data/iam-ondb.npz"), help="what it has learned from (default: %(default)s)")
    add("--output", type=Path, required=True, help="where to write it")
    options = parser.parse_args(arguments)
    check_writable(options.output)
    (model, content), dataset = load_checkpoint(options.checkpoint), load_dataset(options.data)
    if not (encoder := encoder_of(content)):
        raise InputError(f"{options.checkpoint}: a network that reads no hands; train one with --hand")
    if encoder.steering[-1].any():
        raise InputError(f"{options.checkpoint}: it is steered already; give the network as train.py wrote it")
    make_follow(model, encoder, content["charset"], dataset)
    kept = {name: content[name] for name in ("charset", "char_counts", "task")}
    save_checkpoint(options.output, model, **kept, half=True, encoder=encoder)
    print(f"wrote {escaped(options.output)}")


if __name__ == "__main__":
    run_cli(main)
