"""The report served during a run: who gets it, and that it follows the run."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ap2o_fast.cli import main
from ap2o_fast.errors import DataError
from ap2o_fast.reporting.metrics import MetricsSink, read_lines
from ap2o_fast.reporting.page_server import LiveReport, Mark, mark
from ap2o_fast.reporting.report import make_report
from tests.reporting import browser as chromium

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def serving(make: Callable[[], str], look: Callable[[], Mark], **options: Any) -> Iterator[LiveReport]:
    """A server in a thread."""
    with LiveReport(make, look, title="run-7", **options) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(server: LiveReport, path: str, method: str = "GET", **headers: str) -> tuple[int, str, dict[str, str]]:
    """Status, text and headers of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    try:
        connection.request(method, path, headers=headers)
        reply = connection.getresponse()
        return reply.status, reply.read().decode(), dict(reply.getheaders())
    finally:
        connection.close()


@pytest.fixture
def fixed() -> Iterator[LiveReport]:
    """A server of a page that never changes."""
    with serving(lambda: "<p>secret</p>", lambda: Mark(name="1", changed=1.5)) as server:
        yield server


def test_only_the_token_opens_it(fixed: LiveReport) -> None:
    token = fixed.token
    assert len(token) >= 32
    assert fixed.address == f"http://127.0.0.1:{fixed.server_port}/{token}/"
    assert ask(fixed, f"/{token}/page")[:2] == (200, "<p>secret</p>")
    assert json.loads(ask(fixed, f"/{token}/state")[1]) == {"mark": "1", "changed": 1.5, "trouble": ""}
    wrong = ["", "/", "//", "/page", f"/{token}", f"/{token[:-1]}/page", f"/{token}x/page", f"/{token.swapcase()}/page"]
    wrong += [
        "//page",
        "/%00/page",
        f"x/{token}/page",
        f"/{token}/config.json",
        f"/{token}/../config.json",
    ]
    wrong += [f"/{token}/page/", f"/{token}//etc/passwd", f"/{token}/%2e%2e/config.json", "/" + "a" * 5000 + "/page"]
    for path in wrong:
        status, text, _ = ask(fixed, path or "/")
        assert (status, text) == (404, "There is nothing here.\n"), path


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "BREW"])
def test_only_get_is_answered(fixed: LiveReport, method: str) -> None:
    status, text, _ = ask(fixed, f"/{fixed.token}/page", method)
    assert status in (405, 501) and "secret" not in text


def test_it_is_this_machine_s_alone(fixed: LiveReport) -> None:
    assert fixed.socket.getsockname()[0] == "127.0.0.1"
    with pytest.raises(ConnectionRefusedError):  # what listens on every address answers on this one, too
        socket.create_connection(("127.0.0.2", fixed.server_port), timeout=10).close()
    for host, status in (
        ("localhost:8000", 200),
        ("127.0.0.1", 200),
        ("example.org", 403),
        ("localhost.example.org", 403),
    ):
        assert ask(fixed, f"/{fixed.token}/page", Host=host)[0] == status, host


def test_nothing_is_kept_and_nothing_else_is_loaded(fixed: LiveReport) -> None:
    for name in ("", "page", "state"):
        _, text, headers = ask(fixed, f"/{fixed.token}/{name}")
        assert headers["Cache-Control"] == "no-store" and headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer" and "Python" not in headers["Server"]
        assert fixed.token not in text
    policy = ask(fixed, f"/{fixed.token}/")[2]["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'") and "'unsafe-inline'" not in policy.partition("script-src")[2]


def test_the_page_follows_the_run(make_run: Callable[..., Path]) -> None:
    run = make_run(problems=2, epochs=1, hostile=False)
    with serving(partial(make_report, run), partial(mark, run), rest=0.0) as server:
        server._next = 0.0
        before, first = json.loads(ask(server, f"/{server.token}/state")[1]), ask(server, f"/{server.token}/page")[1]
        assert f"over {len(read_lines(run / 'metrics.jsonl'))} steps" in first
        with MetricsSink(run / "metrics.jsonl") as sink:
            sink.write({"step": 10, "loss": 0.125, "seconds": 1.0, "tokens": 10})
        server._next = 0.0
        after, page = json.loads(ask(server, f"/{server.token}/state")[1]), ask(server, f"/{server.token}/page")[1]
        assert before["mark"] != after["mark"] and after["changed"] >= before["changed"]
        assert "over 10 steps" in page and "to 0.125 " in page
    assert not (run / "report.html").exists()


def test_a_page_is_made_once_a_state_and_not_too_often() -> None:
    states, made = [Mark(name="1", changed=0.0)], list[str]()

    def make() -> str:
        made.append(states[-1].name)
        return made[-1]

    server = LiveReport(make, lambda: states[-1], title="", rest=3600.0)
    with server:
        assert server.page() == b"1" and server.page() == b"1"
        states.append(Mark(name="2", changed=0.0))
        assert server.state()["mark"] == "1" and made == ["1"], "an hour has not passed"
        server._next = 0.0
        assert server.page() == b"2" and made == ["1", "2"]


def test_what_cannot_be_made_is_said_and_the_page_before_it_stays() -> None:
    pages = iter([DataError("no tested model yet", do="wait"), "one", OSError("disk"), "two"])
    count = iter(range(9))

    def make() -> str:
        page = next(pages)
        if isinstance(page, Exception):
            raise page
        return page

    with serving(make, lambda: Mark(name=str(next(count)), changed=0.0), rest=3600.0) as server:

        def seen() -> tuple[int, str, str]:
            server._next = 0.0
            status, text, _ = ask(server, f"/{server.token}/page")
            return status, text, json.loads(ask(server, f"/{server.token}/state")[1])["trouble"]

        assert seen() == (503, "Not yet: no tested model yet\n", "no tested model yet")
        assert seen() == (200, "one", "")
        assert seen() == (200, "one", "disk")
        assert seen() == (200, "two", "")


def test_checkpoints_and_the_report_itself_are_no_change(make_run: Callable[..., Path]) -> None:
    run = make_run(problems=2, epochs=1, hostile=False)
    before = mark(run)
    (run / "checkpoints" / "best" / "config.json").write_text("{}")
    (run / "report.html").write_text("page")
    assert mark(run) == before
    (run / "book" / "manifest.json").touch()
    assert mark(run).name != before.name
    assert mark(run / "nowhere").changed == 0


def test_the_command_serves_until_ctrl_c(make_run: Callable[..., Path]) -> None:
    run = make_run(problems=2, epochs=1, hostile=False)
    command = [sys.executable, "-u", "-m", "ap2o_fast", "report", str(run), "--live"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout and process.stderr
        try:
            address = re.search(r"http://127\.0\.0\.1:(\d+)(/\S+/)\n", process.stdout.readline())
            assert address, process.stderr.read()
            connection = http.client.HTTPConnection("127.0.0.1", int(address[1]), timeout=60)
            connection.request("GET", address[2] + "page")
            assert "AP2O report" in connection.getresponse().read().decode()
            taken = subprocess.run([*command, f"--port={address[1]}"], capture_output=True, text=True, cwd=ROOT)
            assert taken.returncode == 4 and f"port {address[1]} cannot be listened on" in taken.stderr
        finally:
            process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "") and said.endswith("ended\n")
    assert not (run / "report.html").exists()


def test_a_port_without_live_is_refused(make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["report", str(make_run(problems=2, epochs=1)), "--port", "8000"])
    assert ended.value.code == 2 and "add --live" in capsys.readouterr().err


@pytest.mark.skipif(not (chromium.BROWSER and chromium.DRIVER), reason="no chromium and chromedriver on this machine")
def test_a_browser_shows_what_is_new_as_the_reader_left_it(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run(problems=6, epochs=1)
    inside = "const d = document.querySelector('iframe').contentDocument; "
    with (
        chromium.start(tmp_path / "profile") as browser,
        serving(partial(make_report, run), partial(mark, run), rest=0.0) as server,
    ):
        browser.open(server.address)
        browser.wait("return document.documentElement.dataset.renewed === '1'")
        browser.wait(inside + "return d.documentElement.dataset.drawn === 'true'")
        browser.run(
            inside + "const f = d.getElementById('filter').elements; f.error.value = 'NameError';"
            "f.error.dispatchEvent(new Event('input', {bubbles: true}));"
            "d.querySelectorAll('.pair:not([hidden])')[1].open = true; f.words.focus();"
            "d.scrollingElement.scrollTo({top: 777, behavior: 'instant'});"
        )
        left = (
            inside + "return [d.getElementById('filter').elements.error.value, d.scrollingElement.scrollTop,"
            "[...d.querySelectorAll('.pair')].map(p => [p.hidden, p.open]), d.activeElement.name]"
        )
        before = browser.run(left)
        assert before[:2] == ["NameError", 777] and before[3] == "words"
        with MetricsSink(run / "metrics.jsonl") as sink:
            sink.write({"step": 10, "loss": 0.125, "seconds": 1.0, "tokens": 10})
        server._next = 0.0
        browser.wait("return Number(document.documentElement.dataset.renewed) >= 2")
        assert browser.run(left) == before
        assert "over 10 steps" in browser.run(inside + "return d.getElementById('figure-curve-loss').innerHTML")
        assert browser.run("return document.querySelectorAll('iframe').length") == 1
        assert "Live: the run as of" in browser.wait(
            "const t = document.getElementById('state').textContent; return t.includes('as of') && t"
        )
        assert [entry for entry in browser.log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
        sent = [json.loads(entry["message"])["message"] for entry in browser.log("performance")]
        asked = [entry["params"] for entry in sent if entry["method"] == "Network.requestWillBeSent"]
        urls = {each["request"]["url"] for each in asked if each["documentURL"].startswith("http")}
        assert urls >= {server.address, server.address + "page", server.address + "state"}
        assert {url for url in urls if not url.startswith((server.address, "data:", "blob:"))} == set()
        server.shutdown()
        server.socket.close()
        browser.wait("return document.getElementById('state').textContent.includes('ended')")
        assert browser.run(inside + "return d.querySelectorAll('.pair').length") > 0
