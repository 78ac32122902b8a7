"""The page in browsers: what a user does with it by keyboard, mouse and pen, and what Python makes of its files.

Chromium is driven by selenium and, for what needs many messages, by its DevTools protocol; Firefox by WebDriver BiDi.
"""

import json
import os
import queue
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from matplotlib.image import imread

from handwriting import Writer
from handwriting.checks import load_recogniser
from handwriting.hands import list_styles, read_hand
from handwriting.ink.formats import Ink
from handwriting.ink.geometry import find_level, to_writing_scale
from handwriting.ink.read_ink import read_lines
from handwriting.recogniser import edit_distance
from handwriting.sampling import sample_noise
from handwriting.writer import load_network

NEEDED = "selenium is missing; python -m pip install -r tests/requirements.txt"
webdriver = pytest.importorskip("selenium.webdriver", reason=NEEDED)
service = pytest.importorskip("selenium.webdriver.chrome.service", reason=NEEDED)
Keys = pytest.importorskip("selenium.webdriver.common.keys", reason=NEEDED).Keys
websocket = pytest.importorskip("websocket", reason=NEEDED)

PAGE = ROOT / "page"
Strokes = list[np.ndarray]  # (n, 2) each
OWN = ("file:", "blob:", "data:")  # addresses that leave no machine
LETTER = "Dear Zoë,\n\nthank you for the long letter and for the rope that you sent us.\n\nYours, Tom"
STYLE = "clara"
LINES = ("it", "We", "ten")  # written with given noise
WRITE_LINES = """
  const weights = await unpackWeights(NETWORK), found = {};
  for (const products of [new PlainProducts(), makeProducts(PRODUCTS)]) {
    const network = new Network(weights, products);
    found[products.constructor.name] = lines.map(({ text, hand, noise }) => {
      let row = 0;
      return [...writeLine(network, encodeText(text), hand, () => noise[row++], noise.length).points];
    });
  }
  return found;
"""
NODE = """
const { vm, fs } = { vm: require("vm"), fs: require("fs") };
const { folder, scripts, code, lines } = JSON.parse(fs.readFileSync(0, "utf8"));
const source = scripts.map((name) => fs.readFileSync(`${folder}/${name}.js`, "utf8")).join("\\n");
vm.runInThisContext(`${source}\\nasync (lines) => {${code}}`)(lines).then((a) => console.log(JSON.stringify(a)));
"""


# ------------------------------------------------------------------------------------------------------------ browsers


class Connection:
    """Messages {id, method, params} over a web socket and their answers; `on_event` has all others, in a thread."""

    def __init__(self, address: str, on_event: Callable[[dict[str, Any]], None]) -> None:
        self.socket = websocket.create_connection(address, suppress_origin=True)
        self.on_event, self.answers, self.numbers = on_event, queue.Queue(), count(1)
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self) -> None:
        try:
            while text := self.socket.recv():
                message = json.loads(text)
                if "method" in message:
                    self.on_event(message)
                elif "sessionId" not in message:  # a worker that is told something may have ended
                    self.answers.put(message)
        except (websocket.WebSocketException, OSError):
            pass  # the browser has gone

    def send(self, method: str, session: str | None = None, **params: Any) -> int:
        message = {"id": next(self.numbers), "method": method, "params": params}
        self.socket.send(json.dumps(message | ({"sessionId": session} if session else {})))
        return message["id"]

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a message and wait for its answer, and so for those of all before it."""
        number = self.send(method, **params)
        while (answer := self.answers.get(timeout=60))["id"] != number:
            assert "error" not in answer, answer
        assert "result" in answer, answer
        return answer["result"]


class Chromium:
    """Debian's Chromium with a fresh profile, which notes the addresses that the page and its worker ask for."""

    def __init__(self, profile: Path) -> None:
        for program in ("chromium", "chromedriver"):
            if shutil.which(program) is None:
                pytest.skip(f"{program} is missing; install chromium and chromium-driver to test the page in a browser")
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        flags = ["headless=new", "disable-gpu", "no-first-run", f"user-data-dir={profile}", "window-size=1400,1000"]
        flags += ["disable-background-networking", "disable-component-update", "disable-sync"]
        flags += ["host-resolver-rules=MAP * ~NOTFOUND"]
        for flag in flags + ["no-sandbox"] * (os.geteuid() == 0):
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=service.Service(shutil.which("chromedriver")))
        self.driver.get("about:blank")  # not the browser's own page for new tabs, which asks for much
        host, tab = self.driver.capabilities["goog:chromeOptions"]["debuggerAddress"], self.driver.current_window_handle
        self.asked, self.workers = [], 0
        self.tools = Connection(f"ws://{host}/devtools/page/{tab}", self.note)
        self.tools.ask("Network.enable")
        self.tools.ask("Target.setAutoAttach", autoAttach=True, waitForDebuggerOnStart=True, flatten=True)

    def note(self, event: dict[str, Any]) -> None:
        params = event["params"]
        if event["method"] == "Target.attachedToTarget":  # it waits until its requests are noted, too
            self.workers += 1
            self.tools.send("Network.enable", params["sessionId"])
            self.tools.send("Runtime.runIfWaitingForDebugger", params["sessionId"])
        elif event["method"] == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])
        elif re.fullmatch(r"Network\.web\w+Created", event["method"]):
            self.asked.append(params["url"])

    def open(self) -> None:
        """Open the page."""
        self.asked, self.workers = [], 0
        self.driver.get((PAGE / "index.html").as_uri())

    def run(self, code: str, *arguments: Any) -> Any:
        """What an asynchronous function with this code gives, its arguments in `given`."""
        promise = f"(async (given) => {{{code}}})([...arguments].slice(0, -1))"
        found = self.driver.execute_async_script(
            f"{promise}.then((value) => arguments[arguments.length - 1]({{ value }}), "
            "({ message }) => arguments[arguments.length - 1]({ error: message }))", *arguments
        )  # fmt: skip
        assert "error" not in found, found
        return found.get("value")

    def find(self, selector: str, number: int = 0) -> Any:
        return self.driver.find_elements("css selector", selector)[number]

    def press(self, *keys: str) -> None:
        """Press keys, one after the other, wherever the focus is. The first may be held: Control."""
        actions, (*held, last) = webdriver.ActionChains(self.driver, duration=0), keys
        for key in held:
            actions.key_down(key)
        actions.send_keys(last)
        for key in held:
            actions.key_up(key)
        actions.perform()

    def emulate(self, **features: str) -> None:
        """Set media features, with _ for -."""
        names = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.tools.ask("Emulation.setEmulatedMedia", features=names)

    def save_to(self, folder: Path) -> None:
        """Let files be saved into a folder."""
        self.driver.execute_cdp_cmd("Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})

    def draw(self, pad: int, strokes: Strokes, after: Callable[[], None] = lambda: None) -> None:
        """Draw strokes (n, 2) with the mouse on one of the lines to copy, as large as it allows; `after` each."""
        code = "pad.scrollIntoView({ block: 'center' }); const { x, y, width, height } = pad.getBoundingClientRect();"
        x, y, width, height = self.run(
            f"const pad = document.querySelectorAll('.pad')[given[0]]; {code} return [x, y, width, height]", pad
        )
        low, extent = np.concatenate(strokes).min(0), np.ptp(np.concatenate(strokes), axis=0)
        scale = np.min([width - 20, height - 10] / extent)
        for stroke in strokes:
            places = ((stroke - low) * scale + [x + 10, y + 5]).tolist()
            kinds = ["mousePressed", *["mouseMoved"] * (len(places) - 1), "mouseReleased"]
            for kind, (left, top) in zip(kinds, [*places, places[-1]], strict=True):
                pen = {"button": "left", "buttons": int(kind != "mouseReleased"), "clickCount": 1}
                self.tools.send("Input.dispatchMouseEvent", type=kind, x=left, y=top, **pen)
            after()
        self.tools.ask("Runtime.evaluate", expression="0")

    def assert_quiet(self) -> None:
        """Nothing is asked of others, no error is in the console, and nothing is thrown, in the worker neither."""
        self.tools.ask("Runtime.evaluate", expression="0")  # what was asked for is noted then
        assert self.workers and any(address.endswith("network.js") for address in self.asked)
        assert [address for address in self.asked if not address.startswith(OWN)] == []
        assert [entry for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"] == []


class Firefox:
    """Debian's Firefox with a fresh profile and without a network."""

    def __init__(self, profile: Path) -> None:
        if shutil.which("firefox-esr") is None:
            pytest.skip("firefox-esr is missing; install it to test the page in Firefox")
        command = ["firefox-esr", "--headless", "--offline", "--no-remote", "--remote-debugging-port=0"]
        self.process = subprocess.Popen(
            [*command, "--profile", str(profile)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            self.asked, self.errors = [], []
            self.tools = Connection(self.address(profile / "WebDriverBiDiServer.json"), self.note)
            self.tools.ask("session.new", capabilities={})
            self.tab = self.tools.ask("browsingContext.getTree")["contexts"][0]["context"]
            self.tools.ask("session.subscribe", events=["log.entryAdded", "network.beforeRequestSent"])
        except BaseException:
            self.close()
            raise

    @staticmethod
    def address(file: Path) -> str:
        """Of its web socket, in a file that it writes when it listens."""
        end = time.monotonic() + 60
        while not (file.exists() and file.stat().st_size):
            assert time.monotonic() < end, "Firefox does not start"
            time.sleep(0.05)
        server = json.loads(file.read_text("utf-8"))
        return f"ws://{server['ws_host']}:{server['ws_port']}/session"

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)

    def note(self, event: dict[str, Any]) -> None:
        params = event["params"]
        if event["method"] == "network.beforeRequestSent":
            self.asked.append(params["request"]["url"])
        elif params.get("level") == "error":
            self.errors.append(params)

    def open(self) -> None:
        url = (PAGE / "index.html").as_uri()
        self.tools.ask("browsingContext.navigate", context=self.tab, url=url, wait="complete")

    def run(self, code: str, *arguments: Any) -> Any:
        """As that of Chromium."""
        promise = f"(async (given) => {{{code}}})({json.dumps(arguments)})"
        found = self.tools.ask(
            "script.evaluate", expression=f"{promise}.then((value) => JSON.stringify(value ?? null))",
            target={"context": self.tab}, awaitPromise=True,
        )  # fmt: skip
        assert found["type"] == "success", found
        return json.loads(found["result"]["value"])

    def press(self, *keys: str) -> None:
        """As that of Chromium, but that the last may be many characters."""
        *held, last = keys
        actions = [{"type": "keyDown", "value": key} for key in held]
        actions += [{"type": kind, "value": key} for key in last for kind in ("keyDown", "keyUp")]
        actions += [{"type": "keyUp", "value": key} for key in held]
        keyboard = {"type": "key", "id": "keyboard", "actions": actions}
        self.tools.ask("input.performActions", context=self.tab, actions=[keyboard])

    def assert_quiet(self) -> None:
        """As that of Chromium; of files, and of its worker, Firefox does not tell."""
        assert self.asked and [address for address in self.asked if not address.startswith(OWN)] == []
        assert self.errors == []


@pytest.fixture(scope="module")
def chromium(tmp_path_factory) -> Iterator[Chromium]:
    browser = Chromium(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.driver.quit()


@pytest.fixture
def page(chromium, tmp_path) -> Iterator[Chromium]:
    """The page in Chromium as if for the first time, which saves its files in the test's folder."""
    chromium.save_to(tmp_path)
    chromium.open()
    yield chromium
    chromium.assert_quiet()
    chromium.run("localStorage.clear()")
    chromium.emulate()


def wait_for(browser: Chromium | Firefox, condition: str, what: str, *arguments: Any) -> None:
    """Wait until a condition in JavaScript is true."""
    end = time.monotonic() + 60
    while not browser.run(f"return Boolean({condition})", *arguments):
        assert time.monotonic() < end, f"{what}: {browser.run('return document.body.innerText')}"
        time.sleep(0.05)


def status(browser: Chromium | Firefox, name: str = "status") -> str:
    return browser.run("return document.getElementById(given[0]).textContent", name)


def finish(browser: Chromium | Firefox) -> str:
    """Wait until all is written and drawn; what the page says then."""
    wait_for(browser, "document.getElementById('stop').disabled", "the pen does not end")
    return status(browser)


def write(browser: Chromium | Firefox, text: str, has_focus: bool = False) -> str:
    """Type a text and write it; what the page says then."""
    if not has_focus:
        browser.run("document.getElementById('text').focus()")
    browser.press(Keys.CONTROL, "a")
    browser.press(text.replace("\n", Keys.ENTER))
    browser.press(Keys.CONTROL, Keys.ENTER)
    return finish(browser)


def choose_pace(page: Chromium) -> None:
    """Have the ink appear at once."""
    page.find("#more summary").click()
    page.find("[name=pace] option[value='0']").click()


def save(page: Chromium, button: str, path: Path) -> Path:
    """Press a button that saves a file and wait for the whole of it."""
    path.unlink(missing_ok=True)
    page.find(button).click()
    end = time.monotonic() + 20
    while not path.exists() or path.stat().st_size == 0 or list(path.parent.glob("*.crdownload")):
        assert time.monotonic() < end, f"{button} saves no {path.name}, but {os.listdir(path.parent)}"
        time.sleep(0.05)
    return path


# --------------------------------------------------------------------------------------------------------------- files


def read_gcode(text: str) -> Strokes:
    """The strokes (n, 2) of a program, in mm from the bottom left corner: a G0 and the G1s after it."""
    strokes = [[]]
    for command, x, y in re.findall(r"^(G[01]) X(\S+) Y(\S+)", text, flags=re.MULTILINE):
        if command == "G0":
            strokes.append([])
        strokes[-1].append((float(x), float(y)))
    return [np.array(stroke) for stroke in strokes if len(stroke) > 1]  # the last way home draws nothing


def read_path(data: str) -> np.ndarray:
    """The places (n, 2) of "x y Lx y Lx y"."""
    return np.array([place.split() for place in data.split(" L")], float)


def misfit(strokes: Strokes, others: Strokes) -> float:
    """How far strokes, moved, turned and scaled as fits best, are from others with as many points."""
    assert [len(stroke) for stroke in strokes] == [len(other) for other in others]
    given, wanted = (np.concatenate(each) @ [1, 1j] for each in (strokes, others))
    terms = np.column_stack([given, np.ones_like(given)])
    return float(np.abs(terms @ np.linalg.lstsq(terms, wanted, rcond=None)[0] - wanted).max())


def assert_read_back(inks: list[Ink], text: str) -> None:
    """Ink says a text: it is noted with it, and the recogniser reads at least four of five characters."""
    texts = [ink.text for ink in inks]
    assert " ".join(texts).split() == text.split()
    read = load_recogniser().read([ink.points for ink in inks])
    errors = sum(map(edit_distance, texts, read))
    assert errors <= sum(map(len, texts)) / 5, read


def test_a_letter_is_written_and_its_files_are_those_of_python(page, tmp_path):
    choose_pace(page)
    page.find("[name=smooth]").click()
    page.find("#plotter summary").click()
    page.find(f"#hand option[value='style:{STYLE}']").click()
    said = write(page, LETTER)
    assert re.fullmatch(r"Written: (\d+) lines on 1 page\. The recogniser doubts .*\.", said), said
    svg, png, gcode, ink = (
        save(page, f"[data-save={kind}]", tmp_path / f"handwriting.{kind}") for kind in ("svg", "png", "gcode", "json")
    )
    lines, drawn = read_lines(ink), read_lines(svg)
    assert_read_back(lines, LETTER)
    assert f" {len(lines)} lines" in said and {line.style for line in lines} == {STYLE}

    source = svg.read_text("utf-8")
    assert '<svg xmlns="http://www.w3.org/2000/svg" width="210mm" height="297mm" viewBox="0 0 210 297">' in source
    assert [line.text for line in drawn] == [line.text for line in lines]
    strokes = [stroke for line in drawn for stroke in line.strokes]
    paths = [read_path(path) for path in re.findall(r'<path d="M(.*?)"/>', source)]
    assert source.count("<path") == len(paths) == len(strokes) == sum(len(line.strokes) for line in lines)
    bottoms = []
    for line, first in zip(lines, np.cumsum([0] + [len(line.strokes) for line in lines]), strict=False):
        own = paths[first : first + len(line.strokes)]
        whole = [n for n, stroke in enumerate(line.strokes) if len(stroke) == len(own[n]) > 1]  # no dots
        assert len(whole) > len(own) / 2
        straight = [find_level(line.strokes).apply(line.strokes[n]) for n in whole]
        assert misfit(straight, [own[n] for n in whole]) < 0.3  # mm: the page levels with the x-height of all lines
        bottoms.append(np.median(np.concatenate(own)[:, 1]))
    assert sorted(bottoms) == bottoms

    everything = np.concatenate(paths)
    assert (everything >= 10).all() and (everything <= [200, 287]).all()
    programmed = read_gcode(gcode.read_text("ascii"))
    assert len(programmed) == len(paths)
    for one, other in zip(programmed, paths, strict=True):
        np.testing.assert_allclose(one, [0, 297] + other * [1, -1], atol=2e-3)

    picture = imread(png)[..., :3].mean(2)
    assert picture.shape == (round(297 / 25.4 * 300), round(210 / 25.4 * 300))
    columns, rows = (everything * 300 / 25.4).astype(int).T
    assert (picture[rows, columns] < 0.5).mean() > 0.99 and (picture > 0.95).mean() > 0.95


# --------------------------------------------------------------------------------------------------------------- hands


def copy_line(page: Chromium, number: int, ink: Ink) -> str:
    """Draw ink on one of the lines to copy and say that it is done; what the page says of it."""
    page.draw(number, ink.strokes)
    page.find("#lines li .row button", 2 * number).click()
    return sheet_says(page, f"line-status-{number}")


def sheet_says(page: Chromium, name: str = "sheet-status", but: str = "") -> str:
    """What a live region says, once it says something, and other than `but`."""
    says = "document.getElementById(given[0]).textContent"
    wait_for(page, f"{says} && {says} !== given[1] && !{says}.endsWith('…')", f"{name} says nothing", name, but)
    return status(page, name)


def test_a_hand_is_given_by_three_lines_kept_and_found_again(page, tmp_path):
    page.find("#stop").click()
    choose_pace(page)
    page.find("#sheet-tab").click()
    sentences = page.run("return SENTENCES")
    inks = Writer(style=STYLE, bias=0.5).write_lines(sentences, range(len(sentences)))
    said = copy_line(page, 0, inks[1])  # another sentence
    assert said.startswith("It does not look like the sentence; the page reads “")
    assert not page.find("#trial").is_displayed()
    page.find("#lines li .row button", 1).click()
    for number, ink in enumerate(inks):
        assert copy_line(page, number, ink).startswith("Good; the page reads “")
    wait_for(page, "document.getElementById('trial-paper').children.length", "the hand is not tried")
    assert re.fullmatch(r"This is .* hand .*\(a distance of \d\.\d\d; theirs is \d\.\d+\)\.", sheet_says(page))

    drawn = [list(map(np.array, strokes)) for strokes in page.run("return sheet.lines.map(({ strokes }) => strokes)")]
    for strokes, ink in zip(drawn, inks, strict=True):
        assert misfit(strokes, ink.strokes) < 20  # whiteboard units
    encoder = load_network(None, "synthesis").encoder
    shipped = {name: read_hand(name, encoder).vector for name in list_styles()}
    file = save(page, "#save-hand", tmp_path / "hand.json")
    vector = Writer(style=file).vector
    np.testing.assert_allclose(vector, encoder.encode(list(map(to_writing_scale, drawn))).mean(0), atol=0.01)
    assert_nearest(vector, shipped)

    page.find("#hand-name").clear()
    page.find("#hand-name").send_keys("Mine & yours")
    page.find("#trial .main").click()
    assert status(page, "sheet-status") == "“Mine & yours” is kept, and chosen in the tab Write."
    page.find("#write-tab").click()
    text = "It is my own hand that writes this letter, and it goes on for some lines, so that all of it can be seen."
    write(page, text)
    page.find("#plotter summary").click()
    lines = read_lines(save(page, "[data-save=json]", tmp_path / "handwriting.json"))
    assert len(lines) > 1 and {line.style for line in lines} == {"Mine & yours"}
    assert_read_back(lines, text)
    assert_nearest(encoder.encode([line.points for line in lines]).mean(0), shipped)

    page.driver.refresh()
    page.find("#stop").click()
    found = page.run("return ['text', 'hand'].map((name) => document.getElementById(name).value)")
    assert found == [text, "own:Mine & yours"]
    page.find("#sheet-tab").click()
    assert page.find("#kept li").text.startswith("Mine & yours")
    open_files(page, tmp_path, file)


def assert_nearest(vector: np.ndarray, shipped: dict[str, np.ndarray]) -> None:
    """A hand is nearer to the one that it comes from than to all others."""
    distances = {name: float(np.linalg.norm(vector - each)) for name, each in shipped.items()}
    assert min(distances, key=distances.get) == STYLE, distances


def open_files(page: Chromium, folder: Path, hand: Path) -> None:
    """Wrong files are refused with a sentence each, and right ones are taken."""
    for name, content, told in (
        ("notes.json", "{nope", "not ink that can be read"), ("picture.png", "", "give one that ends with .json"),
        ("other.json", '{"hand": [1, 2], "encoder": "x"}', "the hand of another network"),
    ):  # fmt: skip
        (folder / name).write_text(content, "utf-8")
        before = status(page, "sheet-status")
        page.find("#open-hand").send_keys(str(folder / name))
        said = sheet_says(page, but=before)
        assert said.startswith(f"The file {name}: ") and told in said and re.fullmatch(r"[^\n]+\w\.", said), said
        assert page.run("return document.getElementById('sheet-status').classList.contains('error')")
    page.find("#open-hand").send_keys(str(hand))
    assert sheet_says(page, but=said).startswith("This is ")


# -------------------------------------------------------------------------------------------------------------- access


def test_the_page_is_for_keyboards_screen_readers_and_narrow_screens(page):
    page.emulate(prefers_reduced_motion="reduce")
    page.run("localStorage.clear()")
    page.driver.refresh()
    assert page.find("[name=pace]").get_attribute("value") == "0"  # no ink that moves
    tab_until(page, "id === 'text'")
    assert write(page, "One line\n\nand another", has_focus=True).startswith("Written: 2 lines on 1 page.")
    seeds = "return current.written.inks.map((ink) => ink?.seed)"
    first, _, second = page.run(seeds)
    tab_until(page, "dataset.number === '1'")
    page.press(Keys.ENTER)
    assert finish(page).startswith("Line 2 written again: 2 lines on 1 page.")
    found = page.run(seeds)
    assert found[0] == first and found[2] != second
    assert page.run("return document.activeElement.getAttribute('aria-label')") == "Write line 2 again: and another"

    axe = pytest.importorskip("axe_core_python.selenium", reason=NEEDED).Axe()
    page.run("document.getElementById('more').open = true; useHand({ vector: Object.values(FACTS.styles)[0] })")
    sheet_says(page)
    for tab in ("write", "sheet"):
        page.find(f"#{tab}-tab").click()
        for width in (360, 800, 1400):
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            page.tools.ask("Emulation.setDeviceMetricsOverride", **size)
            content, room = page.run(
                "const { scrollWidth, clientWidth } = document.body.parentElement; return [scrollWidth, clientWidth]"
            )
            assert content == room and room > width - 20, (tab, width, content)
        for scheme in ("light", "dark"):
            page.emulate(prefers_color_scheme=scheme)
            found = axe.run(page.driver)
            assert len(found["passes"]) > 10
            grave = [each for each in found["violations"] if each["impact"] in ("serious", "critical")]
            assert not grave, [(each["id"], each["help"], each["nodes"][0]["html"]) for each in grave]
    page.tools.ask("Emulation.clearDeviceMetricsOverride")


def tab_until(page: Chromium, condition: str) -> None:
    """Press Tab until the element that has the focus is the one that is meant."""
    for _ in range(40):
        page.press(Keys.TAB)
        if page.run(f"const {{ id, dataset }} = document.activeElement; return {condition}"):
            return
    pytest.fail(f"Tab never comes to where {condition}")


# ------------------------------------------------------------------------------------------------------------- numbers


def given_lines() -> list[dict]:
    """Lines to write: text, hand and noise of each."""
    network = load_network(None, "synthesis")
    hands = [read_hand(name, network.encoder).vector.tolist() for name in list_styles()]
    clusters, noise = network.model.config.num_clusters, []
    for n in range(len(LINES)):
        noise.append(sample_noise([torch.Generator().manual_seed(n)], [0.5], 300, clusters)[:, 0].tolist())
    return [{"text": text, "hand": hand, "noise": each} for text, hand, each in zip(LINES, hands, noise, strict=False)]


def assert_same_lines(found: dict[str, list], expected: dict[str, list], tolerance: float) -> None:
    assert list(found) == list(expected) == ["PlainProducts", "WasmProducts"]
    for products, lines in found.items():
        for points, others in zip(lines, expected[products], strict=True):
            assert 60 < len(points) < 900
            np.testing.assert_allclose(points, others, atol=tolerance)


def test_browsers_write_the_same_points_as_node(page):
    if shutil.which("node") is None:
        pytest.skip("Node is missing; install it to compare the page's numbers")
    page.find("#stop").click()
    given = given_lines()
    scripts = ("network", "products", "ink", "accents", "engine", "readers")
    job = json.dumps({"folder": str(PAGE), "scripts": scripts, "code": WRITE_LINES, "lines": given})
    done = subprocess.run(["node", "-e", NODE], input=job, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    assert_same_lines(page.run(f"const [lines] = given; {WRITE_LINES}", given), json.loads(done.stdout), 1e-4)


def test_firefox_writes_as_chromium_does(page, tmp_path):
    (profile := tmp_path / "firefox").mkdir()
    firefox, found = Firefox(profile), []
    try:
        firefox.open()
        for browser in (firefox, page):
            said = write(browser, "Dear Zoë,\n\nit is late.")
            found.append((said, browser.run("return current.written.inks.map((ink) => ink && [...ink.points])")))
        firefox.assert_quiet()
    finally:
        firefox.close()
    (said, inks), (other, others) = found
    assert said == other and said.startswith("Written: 2 lines on 1 page.")
    assert [points is None for points in inks] == [points is None for points in others] == [False, True, False]
    for points, wanted in zip(inks[::2], others[::2], strict=True):
        np.testing.assert_allclose(points, wanted, atol=1)  # whiteboard units
