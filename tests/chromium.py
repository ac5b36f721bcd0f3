"""A headless Chromium that tests steer over a pipe, by its DevTools protocol. Nothing else is needed."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--hide-scrollbars",
    # Containers run as root, whom its sandbox refuses. The pages are those of this test alone.
    "--no-sandbox",
)

TIMEOUT_S = 30.0
"""Longest wait for an answer or a page."""


def find_chromium() -> str | None:
    """Return the command of an installed Chromium; None without one."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Chromium:
    """A process of Chromium with a profile of its own.

    Args:
        command: From `find_chromium`.
    """

    def __init__(self, command: str) -> None:
        self._profile = tempfile.mkdtemp(prefix="trajrec-chromium-")
        to_read, self._to_write = os.pipe()
        self._to_read, to_write = os.pipe()
        # Out of the way of 3 and 4, which are the ends that Chromium reads and writes.
        ends = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (to_read, to_write)]

        def give_ends() -> None:
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        self._process = subprocess.Popen(
            [command, *FLAGS, f"--user-data-dir={self._profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            preexec_fn=give_ends,
        )
        for fd in (to_read, to_write, *ends):
            os.close(fd)
        self._buffer = b""
        self._n_sent = 0
        self._pages: dict[str, Page] = {}

    def close(self) -> None:
        """End the process, and delete its profile."""
        with contextlib.suppress(OSError):
            self._send("Browser.close", {}, None)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._to_write)
        os.close(self._to_read)
        shutil.rmtree(self._profile, ignore_errors=True)

    def new_page(self, *, width: int = 1440, height: int = 900, is_dark: bool = False) -> Page:
        """Open a page of a size in pixels, in the light or the dark theme."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        attached = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})
        page = Page(self, attached["sessionId"], target)
        self._pages[attached["sessionId"]] = page
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            page.call(f"{domain}.enable")
        page.call("Page.setLifecycleEventsEnabled", {"enabled": True})
        page.resize(width, height)
        theme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        page.call("Emulation.setEmulatedMedia", {"features": [theme]})
        return page

    def call(self, method: str, params: dict[str, Any], session: str | None = None) -> Any:
        """Return the answer to a command."""
        number = self._send(method, params, session)
        answers: list[Any] = []

        def is_answered() -> bool:
            return bool(answers)

        def take(message: dict[str, Any]) -> None:
            if message.get("id") == number:
                answers.append(message)

        self._read_until(is_answered, method, take)
        if "error" in answers[0]:
            raise RuntimeError(f"{method}: {answers[0]['error']}")
        return answers[0]["result"]

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Take events until a condition holds."""
        self._read_until(condition, what, lambda _: None)

    def _send(self, method: str, params: dict[str, Any], session: str | None) -> int:
        self._n_sent += 1
        message = {"id": self._n_sent, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        data = memoryview(json.dumps(message).encode() + b"\0")
        while data:
            data = data[os.write(self._to_write, data) :]
        return self._n_sent

    def _read_until(
        self, condition: Callable[[], bool], what: str, take: Callable[[dict[str, Any]], None]
    ) -> None:
        end = time.monotonic() + TIMEOUT_S
        while not condition():
            ready, _, _ = select.select([self._to_read], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise TimeoutError(f"Chromium did not answer in {TIMEOUT_S:g} s: {what}")
            data = os.read(self._to_read, 1 << 20)
            if not data:
                raise RuntimeError(f"Chromium ended before: {what}")
            self._buffer += data
            *messages, self._buffer = self._buffer.split(b"\0")
            for text in messages:
                message = json.loads(text)
                take(message)
                page = self._pages.get(message.get("sessionId", ""))
                if page is not None and "method" in message:
                    page.events.append((message["method"], message["params"]))


class Page:
    """A page, with everything that happened in it.

    Attributes:
        events: Name and parameters of each event since the last `goto`.
    """

    def __init__(self, browser: Chromium, session: str, target: str) -> None:
        self._browser = browser
        self._session = session
        self._target = target
        self.events: list[tuple[str, dict[str, Any]]] = []

    def call(self, method: str, params: dict[str, Any] | None = None) -> Any:
        """Return the answer to a command for this page."""
        return self._browser.call(method, params or {}, self._session)

    def close(self) -> None:
        """Close the page."""
        self._browser.call("Target.closeTarget", {"targetId": self._target})

    def resize(self, width: int, height: int) -> None:
        """Give the page a size in pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", size)

    def goto(self, address: str) -> None:
        """Open an address, and wait until its files are there."""
        self.events.clear()
        loader = self.call("Page.navigate", {"url": address})["loaderId"]

        def is_loaded() -> bool:
            # Of this navigation: the event of an earlier one may come late.
            return any(
                name == "Page.lifecycleEvent"
                and (params["loaderId"], params["name"]) == (loader, "load")
                for name, params in self.events
            )

        self._browser.wait(is_loaded, address)

    def wait_until(self, expression: str) -> None:
        """Wait until an expression of JavaScript holds."""
        end = time.monotonic() + TIMEOUT_S
        while not self._holds(expression):
            if time.monotonic() > end:
                raise TimeoutError(
                    f"it did not come true in {TIMEOUT_S:g} s: {expression}, at "
                    f"{self.evaluate('location.href + document.readyState')}"
                )
            time.sleep(0.02)

    def _holds(self, expression: str) -> bool:
        try:
            return bool(self.evaluate(expression))
        except RuntimeError as exc:
            # The page was left while it was asked.
            if "navigated or closed" not in str(exc) and "context was destroyed" not in str(exc):
                raise
            return False

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript."""
        params = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        answer = self.call("Runtime.evaluate", params)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression[:200]}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key, such as "j" or "Tab"."""
        code = {"Enter": 13, "Tab": 9, "Escape": 27, "ArrowDown": 40, "ArrowUp": 38}.get(key)
        event: dict[str, Any] = {"type": "keyDown", "key": key}
        if code is not None:
            event |= {"windowsVirtualKeyCode": code, "code": key}
        if len(key) == 1 or key == "Enter":
            event["text"] = "\r" if key == "Enter" else key
        self.call("Input.dispatchKeyEvent", event)
        self.call("Input.dispatchKeyEvent", {**event, "type": "keyUp"})

    def screenshot(self, path: Path, *, is_whole: bool = True) -> None:
        """Write the page, or the part on the screen, as a PNG file."""
        params = {"format": "png", "captureBeyondViewport": is_whole}
        if is_whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            height = min(size["height"], 6_000)
            params["clip"] = {
                "x": 0, "y": 0, "width": size["width"], "height": height, "scale": 1,
            }  # fmt: skip
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", params)["data"]))

    def controls(self) -> Iterator[tuple[str, str]]:
        """Yield role and accessible name of each node, as a screen reader has them."""
        for node in self.call("Accessibility.getFullAXTree")["nodes"]:
            if not node.get("ignored"):
                yield node["role"]["value"], str(node.get("name", {}).get("value", "")).strip()

    @property
    def requests(self) -> list[str]:
        """The addresses that the page asked for."""
        return [
            params["request"]["url"]
            for name, params in self.events
            if name == "Network.requestWillBeSent"
        ]

    @property
    def errors(self) -> list[str]:
        """What the console shows as errors and warnings, and exceptions and dialogs."""
        texts = []
        for name, params in self.events:
            if name == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                texts.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
            elif name == "Runtime.consoleAPICalled":
                texts.append(f"console.{params['type']}: {params['args']}")
            elif name == "Runtime.exceptionThrown":
                texts.append(str(params["exceptionDetails"]))
            elif name == "Page.javascriptDialogOpening":
                texts.append(f"a dialog: {params['message']}")
        return texts


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Run `trajrec view` on a folder; yield the address that it prints."""
    command = [sys.executable, "-m", "trajrec", "view", str(folder), "--no-browser", "--port=0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[tuple[str, Page]]:
    """Run `trajrec view` on a folder; yield its address, and a page that is signed in."""
    command = find_chromium()
    assert command is not None
    with contextlib.closing(Chromium(command)) as browser, served(folder) as entry:
        page = browser.new_page()
        page.goto(entry)
        page.wait_until("location.search === '' && document.readyState === 'complete'")
        yield entry.partition("/?")[0], page
