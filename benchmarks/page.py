"""How long a page and a data set take, from the command to the files.

    python benchmarks/page.py            # some two minutes on two cores
    python benchmarks/page.py --quick    # a few lines only

The page is written twice: by generate.py in a process of its own, as a user runs it, imports and all; and here, when
the network is in memory, with the share of each stage. The data set is a batch of generate.py, with the most memory
that it took. Lines are checked, and written again where they are wrong, as by default.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent.parent))
from handwriting import writer
from handwriting.ink.formats import save
from handwriting.pages import PageFormat
from handwriting.program import Parser, ResultError, run_cli
from handwriting.sampling import Sampler

ROOT = Path(__file__).parent.parent
SENTENCES = (Path(__file__).parent / "sentences.txt").read_text(encoding="utf-8").split("\n")[:-1]
PAGE_SENTENCES = 30  # of the page, a paragraph each: those that are wider than the paper are broken into two lines
BATCH_LINES = 1000
PAGE_FORMAT = PageFormat(line_spacing=8.0)  # 31 lines fit on a page


def run_generate(folder: Path, *arguments: object) -> tuple[float, float]:
    """Run generate.py. Returns its seconds and the most memory that it took, in GB."""
    command = [sys.executable, str(ROOT / "generate.py"), *map(str, arguments)]
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = process.stderr.read().decode(errors="replace") if process.stderr else ""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 3):  # 3: a line is still wrong after all tries, and everything is written
        raise ResultError(f"generate.py ended with status {process.returncode}: {errors.strip()}")
    return time.perf_counter() - started, usage.ru_maxrss * 1024 / 1e9  # Linux counts it in KiB


def cold_page(folder: Path, text: str) -> float:
    """Seconds of a page from the command to its PDF."""
    (folder / "letter.txt").write_text(text, encoding="utf-8")
    spacing = ["--line_spacing", PAGE_FORMAT.line_spacing]
    return run_generate(folder, "--file", "letter.txt", *spacing, "--output", "letter.pdf")[0]


def warm_page(folder: Path, text: str) -> tuple[float, dict[str, float]]:
    """Seconds of the same page by a `Writer` that is there, and the seconds of its stages."""
    seconds: dict[str, float] = defaultdict(float)

    def timed(stage: str, function: Callable) -> Callable:
        def measured(*arguments, **named):
            started = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                seconds[stage] += time.perf_counter() - started

        return measured

    writer.Writer().write("warm")  # loads both networks
    with (
        mock.patch.object(Sampler, "write", timed("the network writes", Sampler.write)),
        mock.patch.object(writer, "check_lines", timed("the recogniser checks", writer.check_lines)),
    ):
        started = time.perf_counter()
        pages = writer.Writer().page(text, PAGE_FORMAT)
        written = time.perf_counter()
        save(pages, folder / "letter.pdf")
        ended = time.perf_counter()
    seconds["layout"] = written - started - sum(seconds.values())
    seconds["the PDF is drawn"] = ended - written
    return ended - started, seconds


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = Parser(description="How long a page and a data set take.")
    parser.add_argument("--quick", action="store_true", help="three sentences in place of all")
    options = parser.parse_args(arguments)
    sentences, batch_lines = (3, 3) if options.quick else (PAGE_SENTENCES, BATCH_LINES)
    text = "\n".join(SENTENCES[:sentences])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"| on {os.cpu_count()} cores | seconds |\n|---|---|", flush=True)
        print(
            f"| a letter of {sentences} sentences, from the command to its PDF | {cold_page(folder, text):.1f} |",
            flush=True,
        )
        whole, stages = warm_page(folder, text)
        print(f"| the same with the network in memory | {whole:.1f} |")
        for stage, seconds in stages.items():
            print(f"| of that: {stage} | {seconds:.2f} ({seconds / whole:.0%}) |", flush=True)
        lines = [SENTENCES[n % len(SENTENCES)] for n in range(batch_lines)]
        (folder / "texts.txt").write_text("\n".join(lines), encoding="utf-8")
        seconds, memory = run_generate(folder, "--batch", "texts.txt", "--format", "npz", "--output", "lines")
        characters = sum(map(len, lines)) / len(lines)
        what = f"a data set of {batch_lines} lines of {characters:.0f} characters, at most {memory:.2f} GB"
        print(f"| {what} | {seconds:.1f} |")


if __name__ == "__main__":
    run_cli(main)
