"""Films the page as it is given a hand and writes in it: `PYTHONPATH=. python tests/film.py examples/hand.webp`.

The hand is one that nobody has: the network writes the sentences, and a mouse draws that ink on the sheet. With
`examples/page.png` it is a picture of the page with a letter.
"""

import base64
import io
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from test_page_browser import Chromium, finish, wait_for

from handwriting import Writer

SEED, TEXT = (
    11,
    "Dear Mary,\n\nthis letter is in the hand that I gave three lines of. It never left my own machine.\n\nYours, John",
)
LETTER = (
    "Dear reader,\n\nthis page writes by hand, in your browser. Give it three lines of your own, and it writes in your "
    "hand.\n\nYours, the pen"
)
SIZE, QUALITY = (900, 720), 55  # pixels of the window; of the pictures
STILL_SIZE = (1200, 900)


class Film:
    """Pictures of a browser's window and how long each is shown, in ms."""

    def __init__(self, browser: Chromium) -> None:
        self.browser, self.pictures, self.durations = browser, [], []

    def take(self, milliseconds: int = 70) -> None:
        data = self.browser.tools.ask("Page.captureScreenshot", format="png")["data"]
        picture = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
        if self.pictures and picture.tobytes() == self.pictures[-1].tobytes():
            self.durations[-1] += milliseconds
        else:
            self.pictures.append(picture)
            self.durations.append(milliseconds)

    def save(self, path: Path) -> None:
        first, *others = self.pictures
        options = {"save_all": True, "append_images": others, "duration": self.durations, "loop": 0}
        first.save(path, quality=QUALITY, method=6, **options)


def play(browser: Chromium, film: Film) -> None:
    """Give a hand on the sheet, keep it, and write a letter in it."""
    writer = Writer(seed=SEED, bias=0.3)
    browser.find("#sheet-tab").click()
    film.take(1000)
    for number, sentence in enumerate(browser.run("return SENTENCES")):
        strokes = writer.write_lines([sentence], [SEED + number], hand_seeds=[SEED])[0].strokes
        browser.draw(number, strokes, film.take)
        browser.find("#lines li .row button", 2 * number).click()
        wait_for(
            browser,
            "document.getElementById(given[0]).textContent.includes('reads')",
            "unread",
            f"line-status-{number}",
        )
        film.take(900)
    says = "document.getElementById('sheet-status').textContent"
    wait_for(browser, f"{says}.startsWith('This is')", "no trial")
    browser.run("document.getElementById('trial').scrollIntoView()")
    film.take(2500)
    browser.find("#trial .main").click()
    finish(browser)
    write(browser, film, TEXT, 4)
    film.take(4000)


def write(browser: Chromium, film: Film, text: str, x_height: float, is_ruled: bool = False) -> None:
    """Write a text on A5, and take pictures until it is written."""
    fields = "const { text, xHeight, ruled, paper, pace } = document.getElementById('settings').elements;"
    set_fields = "[text.value, xHeight.value, ruled.checked, paper.value, pace.value] = [...given, 'a5', '16']"
    browser.run(f"{fields} {set_fields}; scrollTo(0, 0); writePage()", text, x_height, is_ruled)
    while not browser.run("return document.getElementById('stop').disabled"):
        film.take()
        time.sleep(0.05)


def main(path: Path) -> None:
    with tempfile.TemporaryDirectory() as profile:
        browser = Chromium(Path(profile))
        try:
            is_still, film = path.suffix == ".png", Film(browser)
            browser.driver.set_window_size(*(STILL_SIZE if is_still else SIZE))
            browser.open()
            finish(browser)
            if is_still:
                write(browser, film, LETTER, 2.6, is_ruled=True)
                browser.driver.save_screenshot(path)
                return
            play(browser, film)
        finally:
            browser.driver.quit()
    film.save(path)
    seconds, size = sum(film.durations) / 1000, path.stat().st_size / 1e6
    print(f"wrote {path}: {len(film.pictures)} pictures, {seconds:.0f} s, {size:.2f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
