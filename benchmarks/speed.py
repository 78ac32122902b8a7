"""How fast training and writing are, side by side with the textbook version and with what the processor can do.

    python benchmarks/speed.py            # under ten minutes on two cores
    python benchmarks/speed.py --quick    # half as long

The textbook version is good PyTorch code without tricks: float32 and autograd throughout, every line padded to 800
points in batches of 50, nn.LSTM for whole layers, nn.LSTMCell step by step where the window needs it, and sampling
point by point through the same module. Both versions run in turns, on the same lines, and medians are compared; in
training each has a process of its own, so that neither finds the other's memory. Ours is the step of train.py, in one
process and in as many as train.py would take.
"""

import argparse
import json
import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))
from handwriting.data.dataset import Dataset, load_dataset
from handwriting.kernels import decoder
from handwriting.program import Parser, run_cli
from handwriting.sampling import Sampler
from handwriting.training.flags import parse_flags
from handwriting.training.hardware import PRECISIONS, choose_precision, choose_processes
from handwriting.training.processes import Group, start_group, tune_malloc
from handwriting.training.run import Run
from handwriting.training.tasks import make_batches, make_task
from model import Config, Model

CHARS = 79
BATCH, TIMESTEPS = 50, 800
WARM_UP = 2  # steps of training before the measured ones


class Textbook(nn.Module):
    """The network of model.py as one writes it first."""

    def __init__(self, num_chars: int, H: int = 400, M: int = 20, K: int = 10):
        super().__init__()
        self.C, self.H, self.K = num_chars, H, K
        self.first = nn.LSTMCell(3 + num_chars, H) if num_chars else nn.LSTM(3, H)
        self.window = nn.Linear(H, 3 * K) if num_chars else None
        self.second = nn.LSTM(3 + num_chars + H, H)
        self.head = nn.Linear(2 * H, 1 + 6 * M)

    def forward(self, x: Tensor, characters: Tensor | None, state=None):
        """x (T, B, 3), characters (B, U, C). Returns outputs (T, B, 1 + 6M) and the state."""
        B = x.shape[1]
        if state is None:
            zeros = x.new_zeros
            first = (zeros(B, self.H), zeros(B, self.H)) if self.C else None
            state = (first, None, zeros(B, self.C), zeros(B, self.K))
        first, second, w, kappa = state
        if self.C:
            u = torch.arange(1, characters.shape[1] + 1, dtype=x.dtype)
            hs, ws = [], []
            for step in x:
                first = self.first(torch.cat([step, w], dim=1), first)
                alpha, beta, pace = self.window(first[0]).exp().chunk(3, dim=1)
                kappa = kappa + pace / 25
                phi = (alpha[..., None] * torch.exp(-beta[..., None] * (kappa[..., None] - u) ** 2)).sum(1)
                w = (phi[:, None] @ characters)[:, 0]
                hs.append(first[0])
                ws.append(w)
            h, x = torch.stack(hs), torch.cat([x, torch.stack(ws)], dim=2)
        else:
            h, first = self.first(x, first)
        h2, second = self.second(torch.cat([x, h], dim=2), second)
        return self.head(torch.cat([h, h2], dim=2)), (first, second, w, kappa)

    @staticmethod
    def parameters_of(y: Tensor):
        """Raw outputs -> e, pi, mu1, mu2, sigma1, sigma2, rho."""
        M = (y.shape[-1] - 1) // 6
        e, pi, mu1, mu2, s1, s2, rho = y.split([1] + [M] * 6, dim=-1)
        return e[..., 0], pi.softmax(-1), mu1, mu2, s1.exp(), s2.exp(), rho.tanh()

    def loss(self, points: Tensor, mask: Tensor, characters: Tensor | None) -> Tensor:
        """Nats a line."""
        y, _ = self(points[:-1], characters)
        e, pi, mu1, mu2, s1, s2, rho = self.parameters_of(y)
        z1, z2 = (points[1:, :, :1] - mu1) / s1, (points[1:, :, 1:2] - mu2) / s2
        rest = 1 - rho**2 + 1e-6
        log_normal = -(z1**2 + z2**2 - 2 * rho * z1 * z2) / (2 * rest) - torch.log(2 * torch.pi * s1 * s2 * rest.sqrt())
        log_density = torch.logsumexp(torch.log(pi + 1e-20) + log_normal, dim=-1)
        pen = F.binary_cross_entropy_with_logits(-e, points[1:, :, 2], reduction="none")
        return ((pen - log_density) * mask).sum() / points.shape[1]

    @torch.no_grad()
    def write(self, characters: Tensor | None, steps: int) -> Tensor:
        """Sample one line point by point. Returns (steps, 3)."""
        x, state, points = torch.zeros(1, 1, 3), None, []
        for _ in range(steps):
            y, state = self(x, characters, state)
            e, pi, mu1, mu2, s1, s2, rho = self.parameters_of(y[0])
            k = torch.multinomial(pi, 1)
            m1, m2, d1, d2, r = (p.gather(1, k)[0, 0] for p in (mu1, mu2, s1, s2, rho))
            n1, n2 = torch.randn(2)
            offset = torch.stack([m1 + d1 * n1, m2 + d2 * (r * n1 + (1 - r**2).sqrt() * n2)])
            end = torch.bernoulli(torch.sigmoid(-e))
            x = torch.cat([offset, end]).view(1, 1, 3)
            points.append(x[0, 0])
        return torch.stack(points)


def made_up_lines(count: int = 2000) -> Dataset:
    """Lines as long as those of IAM-OnDB (median 620 points, 5 % above 955), of noise."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.normal(628, 190, count), 31, 1940).astype(int)
    ends = rng.random(lengths.sum()) < 0.04
    texts = ["".join(rng.choice([chr(33 + c) for c in range(CHARS)], max(length // 25, 1))) for length in lengths]
    return Dataset(
        offsets=rng.normal(0, 40, (lengths.sum(), 2)).astype(np.int16), ends=ends,
        starts=np.concatenate([[0], np.cumsum(lengths)]), texts=np.array(texts), names=np.array([""] * count),
        splits=np.array(["train"] * (count - 1) + ["validation"]),
        charset=np.array([chr(33 + c) for c in range(CHARS)]), char_counts=np.ones(CHARS, dtype=int),
        mean=np.zeros(2), std=np.full(2, 40.0), has_rests=np.array(False),
    )  # fmt: skip


def timed(function: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def run_options(task: str) -> argparse.Namespace:
    """The settings of the measured runs of train.py."""
    flags = ["--task", task, "--batch_size", BATCH, "--timesteps", TIMESTEPS, "--learning_rate", 1e-4]
    return parse_flags(list(map(str, flags)))


def trainer(task: str, dataset: Dataset) -> Callable[[np.ndarray], None]:
    """One step of our training on a batch of lines, in this process."""
    tune_malloc()
    return Run(run_options(task), dataset).step


def shared_steps(task: str, dataset: Dataset, batches: list[np.ndarray], group: Group) -> Iterator[None]:
    """Steps of our training, one on each of the batches, together with the other processes of the group."""
    tune_malloc()
    run = Run(run_options(task), dataset)
    group.connect()
    run.group = group
    for batch in batches:
        group.sums(0.0)  # all begin at once
        yield run.step(batch)


def other_process(task: str, dataset: Dataset, batches: list[np.ndarray], group: Group) -> None:
    """What the processes of a group but the first do."""
    for _ in shared_steps(task, dataset, batches, group):
        pass


def serve_shared(pipe: Connection, task: str, dataset: Dataset, batches: list[np.ndarray]) -> None:
    """In a process of its own, the first of a group: take a step when told by the pipe, and send back the seconds."""
    size = choose_processes(run_options(task))
    with start_group(size, other_process, task, dataset, batches) as group:
        steps = shared_steps(task, dataset, batches, group)
        while pipe.recv() is not None:
            pipe.send(timed(lambda: next(steps)))


def textbook_trainer(task: str, dataset: Dataset) -> Callable[[np.ndarray], None]:
    """The textbook's step on the same lines, padded to 800."""
    batches = make_task(task, dataset, TIMESTEPS)
    model = Textbook(len(batches.charset))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def step(lines: np.ndarray) -> None:
        points, mask, text, _ = batches.batch(lines, torch.device("cpu"), seeds=[0] * len(lines))
        padding = TIMESTEPS + 1 - len(points)
        points, mask = F.pad(points, (0, 0, 0, 0, 0, padding)), F.pad(mask, (0, 0, 0, padding))
        points = torch.cat([points[..., :2] / torch.from_numpy(dataset.std).float(), points[..., 2:]], dim=-1)
        characters = None
        if text is not None:
            characters = (F.one_hot(text.clamp(min=0), len(batches.charset)) * (text >= 0)[..., None]).float()
        optimizer.zero_grad(set_to_none=True)
        model.loss(points, mask, characters).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 500.0)
        optimizer.step()

    return step


def serve(pipe: Connection, make: Callable, task: str, dataset: Dataset) -> None:
    """In a process of its own: take batches of lines from the pipe, train on them, and send back the seconds."""
    step = make(task, dataset)
    while (lines := pipe.recv()) is not None:
        pipe.send(timed(lambda lines=lines: step(lines)))


def measure_training(task: str, dataset: Dataset, repeats: int) -> dict[str, float]:
    """Real points a second of both versions, ours in one process and in all, on the same batches in turns."""
    lines = dataset.lines("train", task == "synthesis")
    lengths = np.minimum(np.diff(dataset.starts)[lines], TIMESTEPS + 1)
    longest = np.argsort(lengths)[-BATCH:]  # to begin with, so that later steps find all the memory they need
    batches = [longest] * WARM_UP + make_batches(lengths, BATCH, np.random.default_rng(1))[:repeats]
    versions = {
        "one": (serve, trainer, task, dataset),
        "all": (serve_shared, task, dataset, [lines[batch] for batch in batches]),
        "textbook": (serve, textbook_trainer, task, dataset),
    }
    pipes, processes, rates = {}, [], {name: [] for name in versions}
    context = multiprocessing.get_context("spawn")
    for name, (function, *arguments) in versions.items():
        pipes[name], end = context.Pipe()
        processes.append(context.Process(target=function, args=(end, *arguments)))
        processes[-1].start()
        end.close()  # ours: the process has its own
    try:
        for number, batch in enumerate(batches):
            points = int((lengths[batch] - 1).sum())
            for name, pipe in pipes.items():
                pipe.send(lines[batch])
                seconds = pipe.recv()
                if number >= WARM_UP:
                    rates[name].append(points / seconds)
    finally:  # after an error, too, or the others wait for ever
        for pipe, process in zip(pipes.values(), processes, strict=True):
            if process.is_alive():
                pipe.send(None)
            process.join()
    return {name: statistics.median(values) for name, values in rates.items()}


def product_rate() -> float:
    """Operations a second of a large product in the precision that training uses."""
    dtype = PRECISIONS[choose_precision("auto", torch.device("cpu"))]
    a, b = torch.randn(4096, 2048).to(dtype), torch.randn(2048, 2048).to(dtype)
    seconds = min(timed(lambda: a @ b) for _ in range(10))
    return 2 * 4096 * 2048 * 2048 / seconds


def without_compiler(model: Model) -> Sampler:
    """A sampler as it is where step.c cannot be compiled."""
    with patch.object(decoder, "load_library", lambda name: None):
        return Sampler(model)


def measure_sampling(steps: int, repeats: int) -> dict[str, float]:
    """Seconds a point for one line of both versions, for each of 32 at once, and for reading the weights once.

    `half` and `half_many` are ours without a compiler, in half precision; `deep`, `deep_half` with three layers.
    """
    torch.manual_seed(0)
    model, textbook = Model(Config(num_chars=CHARS)), Textbook(CHARS)
    with torch.no_grad():
        model.layers[0].window.bias[-10:] = -10.0  # a window that never comes to the end
    sampler, half = Sampler(model), without_compiler(model)
    deep_model = Model(Config(num_layers=3, num_chars=CHARS))
    with torch.no_grad():
        deep_model.layers[0].window.bias[-10:] = -10.0
    deep, deep_half = Sampler(deep_model), without_compiler(deep_model)
    text = np.array([ord(c) % CHARS for c in "The quick brown fox jumps over the dog."])
    characters = model.one_hot(torch.from_numpy(text)[None])
    weights = [p.detach() for p in model.parameters() if p.dim() == 2]
    vectors = [torch.randn(w.shape[1]) for w in weights]

    def read() -> None:
        for w, v in zip(weights, vectors, strict=True):
            torch.mv(w, v)

    runs = {
        "textbook": lambda: textbook.write(characters, steps),
        "one": lambda: sampler.write([text], [0], 0.5, steps),
        "half": lambda: half.write([text], [0], 0.5, steps),
        "many": lambda: sampler.write([text] * 32, list(range(32)), 0.5, steps),
        "half_many": lambda: half.write([text] * 32, list(range(32)), 0.5, steps),
        "deep": lambda: deep.write([text], [0], 0.5, steps),
        "deep_half": lambda: deep_half.write([text], [0], 0.5, steps),
        "read": lambda: [read() for _ in range(steps)],
    }
    seconds = {name: [] for name in runs}
    for _ in range(repeats + 1):
        for name, run in runs.items():
            seconds[name].append(timed(run) / steps)
    found = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    return found | {name: found[name] / 32 for name in ("many", "half_many")}


def peak_memory() -> float:
    """GB that a process needs for two training steps on 50 lines of 800 points."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import speed; speed.two_full_steps()"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return float(output.split()[-1])


def two_full_steps() -> None:
    """Train on two full batches, and print the most memory that this process has had, in GB."""
    dataset = made_up_lines(300)
    long = np.flatnonzero(np.diff(dataset.starts) > TIMESTEPS)
    step = trainer("synthesis", dataset)
    for _ in range(2):
        step(np.resize(long, BATCH))
    status = Path("/proc/self/status")
    if status.is_file():  # Linux, where ru_maxrss counts the process that started this one too
        kibibytes = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        print(int(kibibytes) * 1024 / 1e9)
    elif sys.platform == "win32":
        print("nan")
    else:
        import resource  # which Windows has not

        unit = 1 if sys.platform == "darwin" else 1024  # bytes or KiB
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9)


def main() -> None:
    """Measure and print."""
    parser = Parser(description="Measure training and writing against the textbook version.")
    parser.add_argument("--quick", action="store_true", help="fewer repeats: under three minutes on two cores")
    parser.add_argument("--data", type=Path, default=Path("data/iam-ondb.npz"), help="lines to train on, if there")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    dataset = load_dataset(options.data) if options.data.is_file() else made_up_lines()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, lines: ", end="")
    print(options.data if options.data.is_file() else "made up, with the lengths of IAM-OnDB")
    figures, rate = {}, product_rate()
    repeats = 5 if options.quick else 15
    for task in ("synthesis", "rand_write"):
        found = measure_training(task, dataset, repeats)
        ratios = {name: found[name] / found["textbook"] for name in ("one", "all")}
        figures[f"train_{task}"], figures[f"train_{task}_one_process"] = ratios["all"], ratios["one"]
        weights = sum(p.numel() for p in Model(Config(num_chars=CHARS if task == "synthesis" else 0)).parameters())
        share = 6 * weights * found["all"] / rate
        print(
            f"training, {task}: {found['all']:.0f} points/s in {choose_processes(run_options(task))} processes, "
            f"textbook {found['textbook']:.0f}, ratio {ratios['all']:.2f}; in one process {found['one']:.0f}, ratio "
            f"{ratios['one']:.2f}; {share:.0%} of the processor's product rate ({rate / 1e9:.0f} GFLOP/s)"
        )
    found = measure_sampling(600, 3 if options.quick else 9)
    figures["sample_one"] = found["textbook"] / found["one"]
    figures["sample_one_over_read"] = found["one"] / found["read"]
    figures["sample_32"] = found["one"] / found["many"]
    print(
        f"writing one line: {1e3 * found['one']:.3f} ms/point, textbook {1e3 * found['textbook']:.3f}, ratio "
        f"{figures['sample_one']:.1f}; {figures['sample_one_over_read']:.2f} times reading the weights once "
        f"({1e3 * found['read']:.3f} ms)"
    )
    pairs = {"one": ("one", "half"), "32": ("many", "half_many"), "three_layers": ("deep", "deep_half")}
    ratios = {f"step_{name}": found[new] / found[old] for name, (new, old) in pairs.items()}
    figures |= ratios
    one, many, deep = ratios.values()
    print(
        f"by step.c, beside half precision: one line {one:.2f} of the time, 32 lines {many:.2f}, one line of three "
        f"layers {deep:.2f} ({1e3 * found['deep']:.3f} ms/point)"
    )
    print(f"writing 32 lines at once: {1e3 * found['many']:.3f} ms/point a line, ratio {figures['sample_32']:.1f}")
    figures["peak_gb"] = peak_memory()
    print(f"peak memory of training, batch 50 x 800: {figures['peak_gb']:.2f} GB")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    run_cli(main)
