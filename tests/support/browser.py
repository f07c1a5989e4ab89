"""A headless Chromium, driven through its DevTools pipe: no port, no library, and no script in the page is needed.

The protocol is JSON with a zero byte behind each message, on descriptors 3 and 4 of the browser
(https://chromedevtools.github.io/devtools-protocol, --remote-debugging-pipe).
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.processes import track

PROGRAM = "chromium-headless-shell"
#: a busy machine starts it in seconds
_TIMEOUT_S = 60.0
#: none of it needs a network; root may not use the browser's own sandbox
_FLAGS = ("--no-sandbox", "--headless", "--disable-gpu", "--remote-debugging-pipe", "--hide-scrollbars")


def is_there() -> bool:
    return shutil.which(PROGRAM) is not None


class Browser:
    """One browser with one page. Raises AssertionError for an answer that is an error, or that does not come."""

    def __init__(self, folder: Path) -> None:
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        command = f'exec 3<&{to_browser} 4>&{from_browser}; exec "$@"'
        profile = f"--user-data-dir={folder / 'profile'}"
        self._process = track(
            subprocess.Popen(
                ["bash", "-c", command, "sh", PROGRAM, *_FLAGS, profile],
                pass_fds=(to_browser, from_browser),
                stderr=subprocess.DEVNULL,
            )
        )
        os.close(to_browser)
        os.close(from_browser)
        self._buffer = b""
        self._number = 0
        self._session = ""
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self("Page.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._write)
        os.close(self._read)
        self._process.kill()
        self._process.wait()

    def __call__(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol; return its result."""
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        answer = self._wait(lambda said: said.get("id") == number)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, path: Path, *, dark: bool = False, medium: str = "screen", width: int = 1200) -> None:
        """Show a page, with all scripts switched off."""
        self("Emulation.setScriptExecutionDisabled", value=True)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self("Emulation.setEmulatedMedia", media=medium, features=[scheme])
        self("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self("Page.navigate", url=path.as_uri())
        self._wait(lambda said: said.get("method") == "Page.loadEventFired")

    def screenshot(self, path: Path) -> None:
        """Write the whole page as PNG."""
        data = self("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def printed(self, path: Path) -> None:
        """Write what a printer would get, as PDF."""
        path.write_bytes(
            base64.b64decode(self("Page.printToPDF", preferCSSPageSize=True, printBackground=False)["data"])
        )

    def boxes(self) -> list[tuple[dict[str, str], tuple[float, float, float, float], str]]:
        """Return each element as it is laid out: attributes (its name as ``""``), left, top, width, height; colour."""
        found = self("DOMSnapshot.captureSnapshot", computedStyles=["fill"], includeDOMRects=True)
        strings, (document, *_) = found["strings"], found["documents"]
        nodes, layout = document["nodes"], document["layout"]
        boxes = []
        for place, node in enumerate(layout["nodeIndex"]):
            words = [strings[number] for number in nodes["attributes"][node]]
            attributes = dict(zip(words[::2], words[1::2], strict=True))
            attributes[""] = strings[nodes["nodeName"][node]]
            left, top, width, height = layout["bounds"][place]
            styles = layout["styles"][place]
            boxes.append((attributes, (left, top, width, height), strings[styles[0]] if styles else ""))
        return boxes

    def text(self) -> str:
        """Return all text that is laid out."""
        found = self("DOMSnapshot.captureSnapshot", computedStyles=[])
        numbers = found["documents"][0]["layout"]["text"]
        return "\n".join(found["strings"][number] for number in numbers if number >= 0)

    def title(self) -> str:
        """Return the title of the page: a script that ran could have changed it."""
        tree = self("Page.getNavigationHistory")
        title: str = tree["entries"][tree["currentIndex"]]["title"]
        return title

    def _wait(self, is_it: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        until = time.monotonic() + _TIMEOUT_S
        while True:
            while b"\0" in self._buffer:
                message, _, self._buffer = self._buffer.partition(b"\0")
                said: dict[str, Any] = json.loads(message)
                if is_it(said):
                    return said
            ready, _, _ = select.select([self._read], [], [], max(until - time.monotonic(), 0))
            assert ready, "the browser does not answer"
            data = os.read(self._read, 1 << 20)
            assert data, "the browser has ended"
            self._buffer += data
