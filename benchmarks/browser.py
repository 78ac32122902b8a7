"""What the page does in a browser: how large it is, how soon and how fast it writes, how legibly, and in whose hand.

    python benchmarks/browser.py            # some five minutes; --quick takes fewer texts, forms and starts
    python benchmarks/browser.py --judge save/judge/hand_best.pt --data data/iam-ondb.npz    # given hands, too

It needs Chromium with its chromedriver, and selenium. Where the system can, all the browser's processes have one core.

- first stroke: from the start of navigation to the frame after the first ink, in a browser that has just started, with
  a fresh profile. The start of the browser is not in it. The page asks for its first text by itself.
- one line: from asking the worker for a line to having it. Nothing is checked or written twice.
- a page: from "Write" to the last stroke, at no pen's pace, checks and second tries as the page has them.
- characters wrong: what Python's recogniser reads of sentences in a random hand each, the same hands for the page and
  for Python but not the same noise. After ± is the standard error, from line to line.
- rank, top 5: those of benchmarks/hands.py. The page takes the hand from the two lines by itself.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks import hands, quality
from handwriting.checks import load_recogniser
from handwriting.data.dataset import load_dataset
from handwriting.ink.formats import Ink
from handwriting.ink.geometry import to_writing_scale
from handwriting.program import InputError, Parser, ResultError, run_cli
from handwriting.writer import Writer, load_network
from utils import load_encoder

ROOT = Path(__file__).parent.parent
USUAL, QUICK = (5, 1, 1), (3, 10, 4)  # starts of the browser; one of how many sentences and forms is taken
LINE = "a pen that writes this line needs fifty characters"
PAD = 860  # pixels: how wide a line on the sheet is
PAGE_LINES, PAGE = 30, {"xHeight": 1.5, "lineSpacing": 8, "pace": "0"}  # mm: each sentence is one line, 32 fit
BIASES, HAND_BIAS = (0.5, 1.0), 0.5
PATIENCE = 110  # seconds for one answer of the browser; selenium itself waits for 120
FLAGS = "headless=new no-sandbox disable-gpu disable-component-update window-size=1400,1000"
PIN = (lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})) if hasattr(os, "sched_setaffinity") else None

# What runs in the page; `given` comes from Python.
ASYNC = """const [given, done] = arguments; (async () => {
BODY
})().then((found) => done([found, null]), (error) => done([null, String(error)]));"""
NOTICE = """window.firstStroke = new Promise((resolve) => {
  new MutationObserver((_, observer) => {
    if (!document.querySelector("#pages .line path[d]")) return;
    observer.disconnect();
    requestAnimationFrame(() => resolve(performance.now() / 1000)); // it is painted before the next frame
  }).observe(document, { subtree: true, attributes: true, attributeFilter: ["d"] });
});"""
OPENED = """const seconds = await firstStroke;
player.pace = 0;
while (isWorking || player.isMoving) await new Promise((resolve) => setTimeout(resolve, 50));
return { seconds, made: FACTS.checkpoint };"""
WRITE = """const { text, seed, bias, lines } = given;
const points = (line) => (given.drawn ? toWritingScale(line) : Float32Array.from(line));
const vectors = lines ? await pen.encode(lines.map(points)) : [];
const hand = given.hand ?? (lines ? meanOf(vectors) : pen.randomHand(seed, bias));
const started = performance.now();
const [ink] = await pen.write([text], [seed], { bias, hand, tries: 1 });
return { seconds: (performance.now() - started) / 1000, points: [...ink.points] };"""
PLAIN = """await pen.ask("load", { packed: NETWORK, module: "" });"""  # without a module: PlainProducts
WRITE_PAGE = """for (const name in given) $("settings").elements[name].value = given[name];
const started = performance.now();
await writePage();
while (player.isMoving) await new Promise(requestAnimationFrame);
if ($("status").classList.contains("error")) throw new Error($("status").textContent);
return { seconds: (performance.now() - started) / 1000, lines: current.written.inks.filter(Boolean).length };"""


@contextmanager
def open_page() -> Iterator[tuple[Any, float]]:
    """A browser with a fresh profile that shows the page, at rest, and the seconds from opening to the first stroke."""
    try:
        from selenium import webdriver
        from selenium.common.exceptions import WebDriverException
    except ImportError:
        raise InputError("selenium is missing; pip install -r tests/requirements.txt") from None
    chromium, driver_path = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver_path:
        raise InputError("Chromium or its chromedriver is missing (on Debian: apt-get install chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in FLAGS.split():
        options.add_argument(f"--{flag}")
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            options.add_argument(f"--user-data-dir={profile}")
            service = webdriver.ChromeService(driver_path, popen_kw={"preexec_fn": PIN})
            with webdriver.Chrome(options, service) as browser:
                browser.set_script_timeout(PATIENCE)
                browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": NOTICE})
                browser.get((ROOT / "page/index.html").as_uri())
                opened = run(browser, OPENED)
                if opened["made"] != load_network(None, "synthesis").hash:
                    raise InputError("page/network.js is not what Python writes with; run python page/build.py")
                yield browser, opened["seconds"]
    except WebDriverException as error:
        raise ResultError(f"Chromium says: {error.msg}") from None


def run(browser: Any, body: str, **given: Any) -> Any:
    """What the body of an asynchronous function returns in the page. Raises ResultError if it throws."""
    found, error = browser.execute_async_script(ASYNC.replace("BODY", body), given)
    if error:
        raise ResultError(f"the page says: {error}")
    return found


def write(browser: Any, text: str, seed: int, bias: float, **hand: Any) -> tuple[np.ndarray, float]:
    """The points (T, 3) of a line and its seconds: in a `hand` (D), in that of `lines`, or in that of the seed."""
    found = run(browser, WRITE, text=text, seed=seed, bias=bias, **hand)
    return np.reshape(found["points"], (-1, 3)).astype(np.float32), found["seconds"]


def print_row(what: str, page: str, python: str = "") -> None:
    """A row of the table."""
    print(f"| {what} | {page} | {python} |", flush=True)


def measure_speed(starts: int) -> list[float]:
    """Medians of some starts: seconds to the first stroke, points a second of a line, and with PlainProducts."""
    firsts, fast, plain = [], [], []
    for seed in range(starts):
        with open_page() as (browser, seconds):
            firsts.append(seconds)
            for rates, begin in ((fast, "await pen.ready;"), (plain, PLAIN)):
                run(browser, begin)
                points, seconds = write(browser, LINE, seed, HAND_BIAS)
                rates.append(len(points) / seconds)
    return [median(numbers) for numbers in (firsts, fast, plain)]


def share_wrong(lines: list[quality.Ink]) -> str:
    """The share of characters that are read wrong, and its standard error."""
    wrong, lengths = np.array([(line.errors, len(line.text)) for line in lines]).T
    rate = wrong.sum() / lengths.sum()
    error = (wrong - rate * lengths).std(ddof=1) * np.sqrt(len(lines)) / lengths.sum()
    return f"{100 * rate:.1f} ± {100 * error:.1f} %"


def measure_legibility(browser: Any, texts: list[str], bias: float) -> None:
    """A row: characters wrong in texts by the page and by Python, in the same hands."""
    recogniser, writer = load_recogniser(), Writer(None, None, bias, 0, retries=0)
    python = quality.write_lines(texts, recogniser, bias)  # number n has the seed n, and its hand
    vectors = [np.asarray(writer.hand_of(n)).tolist() for n in range(len(texts))]
    points = [write(browser, line.text, n, bias, hand=vectors[n])[0] for n, line in enumerate(python)]
    page = [quality.Ink(python[n].text, points[n], read) for n, read in enumerate(recogniser.read(points))]
    print_row(f"characters wrong, {len(texts)} sentences, bias {bias:g}", share_wrong(page), share_wrong(python))


def as_drawn(ink: Ink) -> list[np.ndarray]:
    """The strokes of a line as they are drawn on the page's sheet: pixels, to a tenth."""
    places = np.concatenate(ink.strokes)
    return [((stroke - places.min(0)) * PAD / np.ptp(places[:, 0])).round(1) for stroke in ink.strokes]


def measure_hands(browser: Any, gallery: hands.Gallery, judge: hands.HandEncoder, drawn: bool) -> None:
    """Rows: how near the page and Python come to each form's hand, given two of its lines, as recorded or drawn."""
    given: Any = [[as_drawn(ink) if drawn else ink.points.ravel() for ink in lines] for lines in gallery.given]
    if drawn:
        gallery = gallery._replace(given=[[Ink(to_writing_scale(line)) for line in lines] for lines in given])
    python, page = hands.write_in_hands(None, gallery, HAND_BIAS), []
    for n, ink in enumerate(python):
        lines = [[part.tolist() for part in line] for line in given[n]]
        page.append(Ink(write(browser, ink.text, n, HAND_BIAS, lines=lines, drawn=drawn)[0], ink.text))
    found = [hands.measure(inks, judge, gallery, True) for inks in (page, python)]
    for column, form in {"rank": "{:.3f}", "top 5": "{:.0%}", "wrong": "{:.1%}"}.items():
        cells = [form.format(each[column]).replace("%", " %") for each in found]
        kind = "drawn" if drawn else "given"
        print_row(f"{column}, in the hand of two {kind} lines, {len(page)} forms, bias {HAND_BIAS:g}", *cells)


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = Parser(description="Measure the page in a browser.")
    parser.add_argument("--quick", action="store_true", help="fewer sentences, forms and starts")
    parser.add_argument("--judge", type=Path, help="an encoder that no network has learned from, for given hands")
    parser.add_argument("--data", type=Path, default=Path("data/iam-ondb.npz"), help="its data (default: %(default)s)")
    options = parser.parse_args(arguments)
    starts, every, every_form = QUICK if options.quick else USUAL
    if options.judge:
        judge = load_encoder(options.judge)
        gallery = hands.make_gallery(load_dataset(options.data), judge)
        gallery = hands.Gallery(gallery.given[::every_form], gallery.own[::every_form], gallery.means[::every_form])
    sentences = quality.read_texts(ROOT / "benchmarks/sentences.txt")
    first, fast, plain = measure_speed(starts)  # before there is a table: what is missing is said here
    print(f"| Chromium on {'one core' if PIN else 'all cores'} | page | Python |\n|---|---|---|", flush=True)
    print_row("the folder page/, MB", f"{sum(file.stat().st_size for file in (ROOT / 'page').glob('*.*')) / 1e6:.2f}")
    print_row(f"from opening to the first stroke, seconds, median of {starts}", f"{first:.2f}")
    print_row(f"one line of {len(LINE)} characters, points a second, median of {starts}", f"{fast:,.0f}")
    print_row("the same with PlainProducts", f"{plain:,.0f}")
    with open_page() as (browser, _):
        found = run(browser, WRITE_PAGE, text="\n".join(sentences[:PAGE_LINES]), **PAGE)
        print_row(f"a page of {found['lines']} lines, seconds", f"{found['seconds']:.1f}")
        for bias in BIASES:
            measure_legibility(browser, sentences[::every], bias)
        for drawn in (False, True) if options.judge else ():
            measure_hands(browser, gallery, judge, drawn)


if __name__ == "__main__":
    run_cli(main)
