"""A headless Chromium, driven over the plain WebDriver protocol (w3.org/TR/webdriver2)."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]


class Browser:
    """A page of a headless browser."""

    def __init__(self, address: str, profile: Path) -> None:
        self._address = address
        options = {"binary": BROWSER, "args": [*FLAGS, f"--user-data-dir={profile}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        session = self._send("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        self._address += f"/session/{session}"

    def open(self, page: Path | str) -> None:
        """Open a file and wait for its figures, or go to an address."""
        if isinstance(page, str):
            self._send("POST", "/url", {"url": page})
            return
        self._send("POST", "/url", {"url": page.resolve().as_uri()})
        self.wait("return document.documentElement.dataset.drawn === 'true'")

    def wait(self, script: str, seconds: float = 60) -> Any:
        """Run a script again and again until it returns something true; returns that."""
        deadline = time.monotonic() + seconds
        while not (found := self.run(script)):
            assert time.monotonic() < deadline, f"waited {seconds} s for {script!r}: {self.log('browser')}"
            time.sleep(0.05)
        return found

    def press(self, key: str, *, text: str = "", code: int = 0) -> None:
        """One key, down and up, where the focus is."""
        kinds = ("rawKeyDown", "char", "keyUp") if text else ("rawKeyDown", "keyUp")
        for kind in kinds:
            self.devtools("Input.dispatchKeyEvent", type=kind, key=key, code=key, text=text, windowsVirtualKeyCode=code)

    def run(self, script: str) -> Any:
        return self._send("POST", "/execute/sync", {"script": script, "args": []})

    def devtools(self, command: str, **parameters: Any) -> Any:
        return self._send("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def log(self, kind: str) -> list[dict[str, Any]]:
        return self._send("POST", "/se/log", {"type": kind})

    def screenshot(self, path: Path, *, full: bool = True) -> None:
        made = self.devtools("Page.captureScreenshot", captureBeyondViewport=full)
        path.write_bytes(base64.b64decode(made["data"]))

    def size(self, width: int, height: int) -> None:
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def scheme(self, name: str) -> None:
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def quit(self) -> None:
        self._send("DELETE", "", None)

    def _send(self, method: str, path: str, body: Any) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._address + path, data, {"Content-Type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=120) as reply:
            return json.load(reply)["value"]


@contextmanager
def start(profile: Path) -> Iterator[Browser]:
    """A browser with its own driver; both end with the block.

    Args:
        profile: an empty folder.
    """
    assert DRIVER
    environment = {**os.environ, "NO_PROXY": "*", "no_proxy": "*"}
    driver = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert driver.stdout
        port = next(found[1] for line in driver.stdout if (found := re.search(r"on port (\d+)\.", line)))
        page = Browser(f"http://127.0.0.1:{port}", profile)
        try:
            yield page
        finally:
            page.quit()  # the driver does not end its browser
    finally:
        driver.terminate()
        driver.wait(timeout=30)
