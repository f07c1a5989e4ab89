"""``vmguard notify``: a test message to each target, and that the daemon is down; and where a secret never is."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.guard import Guard, eventually
from tests.support.receivers import Silent, WebReceiver, secret_file
from vmguard.adapters.messages.queue import Queue

pytestmark = pytest.mark.process

WORD = "correct-horse-battery"


@pytest.fixture
def web() -> Iterator[WebReceiver]:
    with WebReceiver() as server:
        yield server


def guard_with(folder: Path, targets: dict[str, Any]) -> Guard:
    return Guard(folder, notify={"queue_dir": str(folder / "queue"), "targets": targets})


def hook(url: str, **other: Any) -> dict[str, Any]:
    return {"type": "webhook", "url": url, "timeout": "1s", **other}


# -- test -------------------------------------------------------------------------------------------------------------


def test_a_test_message_says_what_each_server_answered(tmp_path: Path, web: WebReceiver) -> None:
    with WebReceiver() as other, Silent() as silent:
        other.status, other.reason = 401, "who are you"
        targets = {"pager": hook(web.url), "chat": hook(other.url), "mute": hook(f"http://127.0.0.1:{silent.port}/")}
        guard = guard_with(tmp_path, targets)
        answer = guard.vmguard("notify", "test")
        assert answer.status == 2
        assert answer.seconds < 10
        assert answer.out.splitlines() == [
            "OK: pager (webhook): 200 OK: taken",
            "CRITICAL: chat (webhook): the server answered 401 Unauthorized: who are you",
            "CRITICAL: mute (webhook): it did not answer within 1 s",
        ]
        one = json.loads(guard.vmguard("notify", "test", "pager", "--json").out)
        assert one["status"] == "OK"
        assert [found["target"] for found in one["targets"]] == ["pager"]
    assert all(body["test"] and body["events"][0]["code"] == "notify.test" for body in web.bodies)
    assert not Queue(str(tmp_path / "queue"), "pager").waiting()


def test_a_secret_that_others_may_read_sends_nothing(tmp_path: Path, web: WebReceiver) -> None:
    token = secret_file(tmp_path / "token", WORD, mode=0o644)
    answer = guard_with(tmp_path, {"pager": hook(web.url, token_file=str(token))}).vmguard("notify", "test")
    assert answer.status == 2
    assert "others may read it (mode 0644)" in answer.out
    assert f"do now: chmod 600 {token}" in answer.out
    assert web.requests == []


# -- watch ------------------------------------------------------------------------------------------------------------


def test_a_daemon_that_is_down_is_told_once_and_that_it_runs_again(tmp_path: Path, web: WebReceiver) -> None:
    guard = guard_with(tmp_path, {"pager": hook(web.url, level="error")})
    with guard:
        assert guard.vmguard("notify", "watch").out == "OK: the daemon answers, and sends what waits itself\n"
        guard.kill()
        for _ in range(2):
            answer = guard.vmguard("notify", "watch", "--timeout", "500ms")
            assert (answer.status, answer.out) == (1, "WARNING: the vmguard daemon does not run\n")
        assert web.codes == ["daemon.down"]
        assert web.bodies[0]["state"] == "open"
        guard.start()
        assert eventually(lambda: web.codes == ["daemon.down", "daemon.up"], 10)
        assert web.bodies[1]["state"] == "ended"


def test_what_the_daemon_could_not_send_is_sent_while_it_is_down(tmp_path: Path) -> None:
    web = WebReceiver()
    guard = guard_with(tmp_path, {"pager": hook(web.url)})
    with guard:
        guard.vmguard("maintenance", "--for", "10m", "--reason", "a test")
        queue = Queue(str(tmp_path / "queue"), "pager")
        assert eventually(lambda: bool(queue.state().problem) and queue.state().problem != "", 10)
        assert eventually(lambda: queue.state().problem == "Connection refused", 10)
        guard.kill()
    with web:
        retry = queue.state().pace.failures
        assert retry >= 1
        assert eventually(
            lambda: guard.vmguard("notify", "watch", "--timeout", "500ms").status == 1 and bool(web.codes), 30
        )
        assert web.codes[0] == "watch.disarmed"


# -- secrets ----------------------------------------------------------------------------------------------------------


def senders() -> list[int]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if b"vmguard.jobs.notify" in Path(f"/proc/{name}/cmdline").read_bytes():
                found.append(int(name))
        except OSError:
            continue
    return found


def test_a_secret_is_in_no_argument_no_variable_no_file_and_no_log(tmp_path: Path, web: WebReceiver) -> None:
    token = secret_file(tmp_path / "token", WORD)
    web.hang = True
    guard = guard_with(tmp_path, {"pager": hook(web.url, token_file=str(token), timeout="3s")})
    with guard:
        before = set(senders())
        guard.vmguard("maintenance", "--for", "10m", "--reason", "a test")
        assert eventually(lambda: len(web.requests) == 1, 10)
        [pid] = set(senders()) - before
        for name in ("cmdline", "environ"):
            assert WORD.encode() not in Path(f"/proc/{pid}/{name}").read_bytes(), name
        assert web.requests[0][1]["Authorization"] == f"Bearer {WORD}"
        web.status, web.reason, web.hang = 403, f"no {WORD} here", False
        queue = Queue(str(tmp_path / "queue"), "pager")
        assert eventually(lambda: "403" in queue.state().problem, 20)
        assert queue.state().problem == "the server answered 403 Forbidden: no *** here"
        for words in (["status"], ["history"], ["notify", "status"], ["config", "show"], ["metrics"]):
            answer = guard.vmguard(*words)
            assert WORD not in answer.out + answer.err, words
    for path in [tmp_path / "daemon.log", *tmp_path.glob("run/**/*"), *tmp_path.glob("queue/**/*")]:
        assert not path.is_file() or WORD.encode() not in path.read_bytes(), path
