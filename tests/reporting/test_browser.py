"""The report in a real browser."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ap2o_fast.reporting.report import write_report
from tests.comparing import made_up
from tests.reporting import browser as chromium
from tests.reporting import dpo_run
from tests.reporting.browser import Browser

pytestmark = pytest.mark.skipif(
    not (chromium.BROWSER and chromium.DRIVER), reason="no chromium and chromedriver on this machine"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium.start(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def report(whole_run: Path) -> Path:
    return whole_run / "report.html"


def shown_pairs(browser: Browser) -> list[list[str]]:
    return browser.run(
        "return [...document.querySelectorAll('.pair')].filter(p => p.checkVisibility())"
        ".map(p => [p.dataset.error, p.dataset.problem])"
    )


def loaded(browser: Browser) -> list[str]:
    """What pages have asked for since the log was last read, their own pictures left out."""
    entries = [json.loads(entry["message"])["message"] for entry in browser.log("performance")]
    sent = [entry["params"] for entry in entries if entry["method"] == "Network.requestWillBeSent"]
    urls = [each["request"]["url"] for each in sent if each["documentURL"].startswith("file:")]
    return [url for url in urls if not url.startswith(("data:", "blob:"))]


def test_draws_every_figure_without_an_error_and_loads_nothing(browser: Browser, report: Path) -> None:
    browser.open(report)
    assert [entry for entry in browser.log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    plots = browser.run(
        "return [...document.querySelectorAll('[data-plot]')]"
        ".map(p => p.querySelectorAll('.scatterlayer .trace, .bars .point').length)"
    )
    assert len(plots) >= 11
    assert min(plots) >= 1
    assert loaded(browser) == [report.resolve().as_uri()]


def test_model_text_is_inert(browser: Browser, report: Path) -> None:
    browser.open(report)
    assert browser.run("return document.querySelectorAll('main img, main script:not([type])').length") == 0
    said = browser.run("return [...document.querySelectorAll('.said')].map(s => s.textContent)")
    assert "<script>alert(1)</script><img src=http://example.org/x onerror=alert(2)>" in said
    assert browser.run("return document.body.innerHTML.includes('\\u001b')") is False


def test_a_script_that_slipped_in_would_not_run(browser: Browser, report: Path) -> None:
    browser.open(report)
    browser.run(
        "const s = document.createElement('script'); s.textContent = 'window.broken = 1'; document.body.append(s);"
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.broken = 2\">');"
    )
    time.sleep(0.2)
    assert browser.run("return window.broken === undefined") is True
    browser.log("browser")


def choose(browser: Browser, name: str, value: str) -> None:
    browser.run(
        f"const field = document.getElementById('filter').elements[{name!r}]; field.value = {value!r};"
        "field.dispatchEvent(new Event('input', {bubbles: true}));"
    )


def said(browser: Browser) -> str:
    return browser.run("return document.getElementById('shown').textContent")


def test_filters_failures_by_type_problem_and_words(browser: Browser, report: Path) -> None:
    browser.open(report)
    every = shown_pairs(browser)
    assert said(browser) == f"{len(every)} of {len(every)} failures"
    choose(browser, "error", "NameError")
    named = shown_pairs(browser)
    assert named == [pair for pair in every if pair[0] == "NameError"] != []
    choose(browser, "problem", named[0][1])
    both = shown_pairs(browser)
    assert both == [pair for pair in named if pair[1] == named[0][1]]
    assert said(browser) == f"{len(both)} of {len(every)} failures"
    possible = (
        "return [...document.querySelector('select[name=error]').options].filter(o => !o.disabled).map(o => o.value)"
    )
    assert sorted(browser.run(possible)) == sorted({"", *(error for error, problem in every if problem == both[0][1])})
    browser.run("document.querySelector('#filter [type=reset]').click()")
    browser.wait(f"return document.getElementById('shown').textContent === '{len(every)} of {len(every)} failures'")
    assert shown_pairs(browser) == every
    choose(browser, "words", "Is Not DEFINED")
    assert {error for error, _ in shown_pairs(browser)} == {"NameError"}
    choose(browser, "words", "<script>alert(1)</script><img src=http")
    assert shown_pairs(browser) == [["ValueError", "<b>hostile</b>/0"]]
    choose(browser, "words", "no text has these words")
    assert shown_pairs(browser) == [] and said(browser) == f"0 of {len(every)} failures"


def test_opens_and_closes_what_the_filter_leaves(browser: Browser, report: Path) -> None:
    browser.open(report)
    choose(browser, "error", "TypeError")
    opened = "return [...document.querySelectorAll('.pair[open]')].map(p => p.dataset.error)"
    first = browser.run(opened)
    browser.run("document.querySelector('#filter [name=open]').click()")
    assert sorted(browser.run(opened)) == sorted([*first, *(error for error, _ in shown_pairs(browser))])
    browser.run("document.querySelector('#filter [name=close]').click()")
    assert browser.run(opened) == first
    failing = browser.run(
        "const e = document.querySelector('.pair[data-error=TypeError]'); e.open = true;"
        "return [...e.querySelectorAll('tr.failing')].map(r => [r.querySelector('[role=img]').ariaLabel, r.innerText])"
    )
    assert [label for label, _ in failing] == ["failing line"] and "len(numbers)" in failing[0][1]


def test_fits_a_phone_and_follows_the_colour_scheme(browser: Browser, report: Path) -> None:
    browser.size(390, 844)
    browser.scheme("dark")
    browser.open(report)
    assert browser.run("return document.documentElement.scrollWidth") <= 390
    wide = browser.run(
        "return [...document.querySelectorAll('.plot .main-svg')]"
        ".filter(s => s.getBoundingClientRect().right > 391).length"
    )
    assert wide == 0

    def colours() -> list[str]:
        return browser.run(
            "return [getComputedStyle(document.body).backgroundColor, "
            "getComputedStyle(document.querySelector('#figure-quiz .xtick text')).fill]"
        )

    dark = colours()
    browser.scheme("light")
    deadline = time.monotonic() + 20
    while (light := colours())[1] == dark[1] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert light[0] != dark[0]
    assert light[1] != dark[1]
    browser.size(1200, 900)


def test_a_phone_shows_the_difference_without_scrolling_sideways(browser: Browser, report: Path) -> None:
    browser.size(390, 844)
    browser.open(report)
    browser.run("document.querySelectorAll('.pair').forEach(p => { p.open = true; })")
    wide = browser.run(
        "return [...document.querySelectorAll('.pair .scroll')].filter(s => s.scrollWidth > s.clientWidth + 1).length"
    )
    assert wide == 0
    assert browser.run("return document.documentElement.scrollWidth") <= 390
    shown = browser.run(
        "const r = document.querySelector('.pair tr.changed');"
        "const [a, b] = [...r.querySelectorAll('.code')].map(c => c.getBoundingClientRect());"
        "return [a.bottom <= b.top + 1, a.left === b.left]"
    )
    assert shown == [True, True]
    once = "const c = document.querySelector('.pair tr.same').cells; return [...c].map(x => x.checkVisibility())"
    assert browser.run(once) == [False, False, True, True]
    browser.size(1200, 900)


def test_details_open_by_keyboard_and_everything_has_a_name(browser: Browser, report: Path) -> None:
    browser.open(report)
    nameless = browser.run(
        "return [...document.querySelectorAll("
        "'select, input, button, output, [role=region], [role=img], section, nav, form')]"
        ".filter(e => !(e.ariaLabel || e.getAttribute('aria-labelledby') || e.labels?.length || e.ariaLive"
        " || (e.matches('button') && e.textContent)))"
        ".map(e => e.outerHTML.slice(0, 80))"
    )
    assert nameless == []
    browser.run("const d = document.querySelectorAll('.pair')[1]; d.querySelector('summary').focus();")
    browser.press("Enter", text="\r", code=13)
    assert browser.run("return document.querySelectorAll('.pair')[1].open") is True


def test_the_filter_is_used_by_keyboard_alone(browser: Browser, report: Path) -> None:
    browser.open(report)
    browser.run("document.querySelector('#filter select').focus()")
    focused = "const e = document.activeElement; return e.name || e.type || e.tagName"
    reached = []
    for _ in range(7):
        reached.append(browser.run(focused))
        browser.press("Tab", code=9)
    assert reached == ["error", "problem", "words", "reset", "open", "close", "SUMMARY"]
    every = len(shown_pairs(browser))
    browser.run("document.querySelector('#filter select').focus()")
    for letter in "name":
        browser.press(letter, text=letter, code=ord(letter.upper()))
    assert browser.run("return document.querySelector('#filter select').value") == "NameError"
    assert 0 < len(shown_pairs(browser)) < every
    browser.run("document.querySelector('#filter input').focus()")
    for letter in "zz":
        browser.press(letter, text=letter, code=ord(letter.upper()))
    assert shown_pairs(browser) == []


def test_without_javascript_every_failure_can_be_opened(browser: Browser, report: Path) -> None:
    browser.devtools("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(report.resolve().as_uri())
        entries = shown_pairs(browser)
        assert len(entries) > 20
        assert browser.run("return document.getElementById('filter').checkVisibility()") is False
        assert browser.run("return [...document.querySelectorAll('.canvas')].some(c => c.checkVisibility())") is False
        told = browser.run("return document.querySelector('main').innerText")
        assert "need JavaScript" in told and "Failed answers: WrongResult" in told
        browser.run("document.querySelectorAll('.pair')[1].querySelector('summary').focus()")
        browser.press("Enter", text="\r", code=13)
        assert browser.run("return document.querySelectorAll('.pair')[1].open") is True
    finally:
        browser.devtools("Emulation.setScriptExecutionDisabled", value=False)


def test_prints_whole_figures_and_what_was_open(browser: Browser, report: Path) -> None:
    browser.size(1280, 900)
    browser.open(report)
    browser.devtools("Emulation.setEmulatedMedia", media="print")
    try:
        browser.size(680, 1000)  # what A4 leaves between its margins
        browser.wait(
            "return [...document.querySelectorAll('[data-plot]')].every(p => p.querySelector('.main-svg').viewBox"
            ".baseVal.width <= 660)"
        )
        cut = browser.run(
            "return [...document.querySelectorAll('.plot')].filter(p => [...p.querySelectorAll('.main-svg')]"
            ".some(s => { const a = s.getBoundingClientRect(), b = p.getBoundingClientRect();"
            "return a.right > b.right + 1 || a.bottom > b.bottom + 1 || a.width < 100; })).map(p => p.id)"
        )
        assert cut == []
        assert browser.run("return document.documentElement.scrollWidth") <= 680
        printed = browser.run("return [...document.querySelectorAll('.pair')].filter(p => p.checkVisibility()).length")
        assert printed == browser.run("return document.querySelectorAll('.pair[open]').length") == 1
        assert browser.run("return document.querySelector('.filter').checkVisibility()") is False
        pages = base64.b64decode(browser.devtools("Page.printToPDF", printBackground=True)["data"])
        assert pages.startswith(b"%PDF") and 3 <= pages.count(b"/Type /Page\n") <= 20
    finally:
        browser.devtools("Emulation.setEmulatedMedia", media="")
        browser.size(1200, 900)


def test_the_report_of_plain_dpo_opens_too(browser: Browser, tmp_path: Path) -> None:
    page = write_report(dpo_run.build(tmp_path / "run"))
    browser.open(page)
    assert [entry for entry in browser.log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    stars = browser.run("return document.querySelectorAll('#figure-curve-loss .scatterlayer .trace').length")
    assert stars == 3
    assert browser.run("return document.querySelectorAll('main img, main script:not([type])').length") == 0
    browser.size(390, 844)
    browser.open(page)
    assert browser.run("return document.documentElement.scrollWidth") <= 390
    browser.size(1200, 900)


def test_a_comparison_opens_too(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "comparison.html"
    page.write_text(made_up.page(tmp_path), encoding="utf-8")
    browser.size(390, 844)
    loaded(browser)
    browser.open(page)
    assert loaded(browser) == [page.resolve().as_uri()]
    assert [entry for entry in browser.log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    traces = "p.querySelectorAll('.scatterlayer .trace, .bars .point').length"
    drawn = browser.run(f"return [...document.querySelectorAll('[data-plot]')].map(p => {traces})")
    assert len(drawn) >= 8 and min(drawn) >= 1
    assert browser.run("return document.documentElement.scrollWidth") <= 390
    browser.size(1200, 900)


def test_an_incomplete_run_opens_too(browser: Browser, make_run: Callable[..., Path]) -> None:
    run = make_run("early", problems=2, epochs=1)
    for name in ("evaluation.json", "quiz.jsonl", "plan.jsonl", "timing.json"):
        (run / name).unlink()
    browser.open(write_report(run))
    assert [entry for entry in browser.log("browser") if entry["level"] == "SEVERE"] == []
