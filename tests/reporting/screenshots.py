"""Pictures of the reports for the documentation.

``python -m tests.reporting.screenshots RUN COMPARISON --out docs/images`` takes ``report.html`` and
``comparison.html`` as they are in the two folders. It needs chromium and chromedriver.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.reporting.browser import BROWSER, DRIVER, Browser, start

WIDE, PHONE = (1280, 900), (390, 844)


@dataclass(frozen=True, kw_only=True)
class Shot:
    """A picture: of which page, from the top of which element on, how large in pixels, light or dark.

    Attributes:
        before: a script that prepares the page.
    """

    name: str
    page: str
    size: tuple[int, int]
    scheme: str = "light"
    top: str = ""
    before: str = ""


RUN, COMPARISON = "report.html", "comparison.html"
CHOOSE = (
    "const f = document.getElementById('filter').elements; f.error.value = 'NameError';"
    "f.error.dispatchEvent(new Event('input', {bubbles: true}));"
    "document.querySelector('.pair:not([hidden]) tr.changed.failing').closest('.pair').open = true;"
)
SHOTS = (
    Shot(name="report", page=RUN, size=(1280, 1400)),
    Shot(name="report-book", page=RUN, size=(1280, 1200), top="#book", before=CHOOSE),
    Shot(name="report-cost", page=RUN, size=(1280, 1050), top="#cost"),
    Shot(name="report-dark", page=RUN, size=(1280, 1400), scheme="dark"),
    Shot(name="report-phone", page=RUN, size=(390, 1500)),
    Shot(name="report-phone-dark", page=RUN, size=(390, 1500), scheme="dark", top="#book", before=CHOOSE),
    Shot(name="comparison", page=COMPARISON, size=(1280, 1500)),
    Shot(name="comparison-phone", page=COMPARISON, size=(390, 1500)),
)


def take(browser: Browser, shot: Shot, folder: Path, out: Path) -> Path:
    """Take one picture of a page in `folder`; returns its path."""
    browser.size(*shot.size)
    browser.devtools("Emulation.setScrollbarsHidden", hidden=True)
    browser.scheme(shot.scheme)
    browser.open(folder / shot.page)
    if shot.before:
        browser.run(shot.before)
    if shot.top:
        browser.run(f"document.querySelector('{shot.top}').scrollIntoView({{behavior: 'instant'}})")
    browser.wait("return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")
    path = out / f"{shot.name}.png"
    browser.screenshot(path, full=False)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run, with report.html")
    parser.add_argument("comparison", type=Path, help="folder of a comparison, with comparison.html")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    given = parser.parse_args()
    if not (BROWSER and DRIVER):
        parser.error("there is no chromium with chromedriver on this machine")
    given.out.mkdir(parents=True, exist_ok=True)
    folders = {RUN: given.run, COMPARISON: given.comparison}
    for page, folder in folders.items():
        if not (folder / page).is_file():
            parser.error(f"{folder} has no {page}: `ap2o report {folder}` writes it")
    with tempfile.TemporaryDirectory() as profile, start(Path(profile)) as browser:
        for shot in SHOTS:
            path = take(browser, shot, folders[shot.page], given.out)
            print(f"{path}: {path.stat().st_size / 1024:.0f} kB")


if __name__ == "__main__":
    main()
