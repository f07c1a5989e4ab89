"""Messages from a real daemon to real servers: in time, whatever is dead; and what a message may never delay."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process.test_migration_target import Source
from tests.support.dead_share import DeadShare
from tests.support.fake_qemu import FakeQemu
from tests.support.guard import Guard, Vm, eventually, make_disk
from tests.support.namespaces import Space
from tests.support.receivers import Certificate, MailReceiver, Silent, WebReceiver, secret_file
from vmguard.adapters.linux import clock, proc
from vmguard.adapters.messages.queue import Queue
from vmguard.adapters.messages.sending import send
from vmguard.config.notify import Target, TargetType
from vmguard.core.notices.event import make
from vmguard.core.notices.message import compose
from vmguard.core.notices.wanted import Wish
from vmguard.core.watchdog.events import Level, Report
from vmguard.daemon.report import history
from vmguard.daemon.report.history import History, Reporter
from vmguard.daemon.report.notices import Notices, Wanted
from vmguard.daemon.report.notify_command import Notifier
from vmguard.daemon.report.notify_command import Wanted as WantedCommand

pytestmark = pytest.mark.process

#: from a verdict until its message is there
SOON_S = 5.0
#: from the report of a freeze until the VM stands still; it takes some milliseconds on an idle machine
FREEZE_S = 0.7


@pytest.fixture
def web() -> Iterator[WebReceiver]:
    with WebReceiver() as server:
        yield server


def hook(url: str, **other: Any) -> dict[str, Any]:
    return {"type": "webhook", "url": url, "timeout": "1s", **other}


class Scene:
    """A daemon with targets, a guarded VM, and a disk of somebody else's, which makes a conflict."""

    def __init__(self, folder: Path, targets: dict[str, Any], **options: Any) -> None:
        self.folder = folder
        notify = {"queue_dir": str(folder / "queue"), "targets": targets}
        self.guard = Guard(folder, notify=notify, unguarded={"action": "freeze", "fence_after": "0s"}, **options)
        self.guard.start()

    def with_vm(self) -> Scene:
        self.vm = Vm("web", [make_disk(self.folder / "mine.raw")])
        self.other = make_disk(self.folder / "theirs.raw")
        assert self.guard.hook("prepare", self.vm.xml(), self.vm.name).status == 0
        self.qemu = FakeQemu(self.guard.libvirt_dir, self.vm)
        assert eventually(lambda: self.guard.guards("web") == {str(self.vm.disks[0]): "pinned"})
        self.rival = Source(self.other)
        return self

    def freeze(self) -> float:
        """Let the VM run into the conflict; return how long it took from the report until it stood still."""
        self.qemu.open(self.other)
        assert eventually(lambda: proc.thread_state(self.qemu.pid, self.qemu.pid) == "T", 20)
        stands = clock.boottime()
        entries = history.read(str(self.guard.run_dir))
        return stands - next(float(entry["boottime"]) for entry in entries if entry["code"] == "vm.freeze")

    def something_happens(self) -> None:
        """Have the daemon report ``watch.disarmed``."""
        assert self.guard.vmguard("maintenance", "--for", "10m", "--reason", "a test").status == 1

    def codes(self) -> list[str]:
        found = json.loads(self.guard.vmguard("history", "--json").out)
        return [entry["code"] for incident in found["incidents"] for entry in incident]

    def target(self, name: str) -> dict[str, Any]:
        found = json.loads(self.guard.vmguard("notify", "status", "--json").out)["targets"]
        return next(entry for entry in found if entry["target"] == name)

    def end(self) -> None:
        if hasattr(self, "qemu"):
            self.qemu.kill()
            self.rival.let_go()
        self.guard.stop()
        self.guard.end()


@pytest.fixture
def scenes() -> Iterator[list[Scene]]:
    made: list[Scene] = []
    yield made
    for scene in made:
        scene.end()


# -- in time ----------------------------------------------------------------------------------------------------------


def test_a_frozen_vm_is_told_by_web_hook_and_mail_in_time(
    tmp_path: Path, web: WebReceiver, scenes: list[Scene]
) -> None:
    certificate = Certificate.make(tmp_path)
    password = secret_file(tmp_path / "password", "correct-horse")
    with MailReceiver(certificate, "me", "correct-horse") as mail:
        server = {"server": f"localhost:{mail.port}", "ca": str(certificate.path), "user": "me"}
        admins = {"type": "mail", "to": "admins@example.org", "password_file": str(password), **server}
        scene = Scene(tmp_path, {"pager": hook(web.url), "admins": admins}).with_vm()
        scenes.append(scene)
        scene.freeze()
        assert eventually(lambda: "vm.freeze" in web.codes, SOON_S)
        assert eventually(lambda: len(mail.mails) == 1, SOON_S)
    [body] = web.bodies
    assert (body["state"], body["level"], body["events"][0]["vm"]) == ("open", "error", "web")
    assert "VM 'web' is in conflict with another host" in mail.mails[0]["Subject"]
    assert "is frozen" in mail.mails[0].get_content()
    assert "correct-horse" not in (tmp_path / "daemon.log").read_text()


def test_also_while_the_share_is_dead(tmp_path: Path, web: WebReceiver, scenes: list[Scene]) -> None:
    share = tmp_path / "share"
    share.mkdir()
    dead = DeadShare(tmp_path, [share])
    guard = Guard(tmp_path, notify={"queue_dir": str(tmp_path / "queue"), "targets": {"pager": hook(web.url)}})
    guard.environment = dead.environment()
    with guard:
        vm = Vm("web", [make_disk(share / "web.raw")])
        assert guard.hook("prepare", vm.xml()).status == 0
        dead.die()
        assert guard.vmguard("maintenance", "--for", "10m", "--reason", "a test").status == 1
        assert eventually(lambda: web.codes == ["watch.disarmed"], SOON_S)
        dead.heal()


def test_a_name_server_that_says_nothing_delays_neither_the_freeze_nor_another_target(
    tmp_path: Path, web: WebReceiver, scenes: list[Scene]
) -> None:
    resolver = tmp_path / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.77\n")
    with (
        Silent(("127.0.0.77", 53), socket.SOCK_DGRAM),
        Space(f"mount --bind {resolver} /etc/resolv.conf") as space,
    ):
        targets = {"far": hook("http://hooks.example.org/x"), "pager": hook(web.url)}
        scene = Scene(tmp_path, targets, prefix=space.prefix).with_vm()
        scenes.append(scene)
        assert scene.freeze() < FREEZE_S
        assert eventually(lambda: "vm.freeze" in web.codes, SOON_S)
        assert eventually(lambda: "did not answer within" in scene.target("far")["problem"], 10)
        scene.end()
        scenes.clear()


def test_an_endpoint_that_hangs_delays_no_freeze_and_no_other_target(
    tmp_path: Path, web: WebReceiver, scenes: list[Scene]
) -> None:
    with WebReceiver() as slow, Silent() as silent:
        slow.hang = True
        mail = {"type": "mail", "to": "a@example.org", "server": f"127.0.0.1:{silent.port}", "tls": "none"}
        targets = {"slow": hook(slow.url), "mail": {**mail, "timeout": "1s"}, "pager": hook(web.url)}
        scene = Scene(tmp_path, targets).with_vm()
        scenes.append(scene)
        assert scene.freeze() < FREEZE_S
        assert eventually(lambda: "vm.freeze" in web.codes, SOON_S)
        assert eventually(lambda: scene.codes().count("notify.failed") == 2, 10)
    # the two that work tell of the others
    assert eventually(lambda: "notify.failed" in web.codes, SOON_S)


# -- down, then up ----------------------------------------------------------------------------------------------------


def test_an_endpoint_that_comes_back_gets_all_of_it_once_and_everybody_says_how_it_stands(
    tmp_path: Path, scenes: list[Scene]
) -> None:
    web = WebReceiver()  # it does not listen yet
    scene = Scene(tmp_path, {"pager": hook(web.url, level="info")})
    scenes.append(scene)
    scene.something_happens()
    assert eventually(lambda: scene.target("pager")["problem"] == "Connection refused", SOON_S)
    assert eventually(lambda: "notify.failed" in scene.codes(), 5)
    assert scene.target("pager")["waiting"] == 1
    status = scene.guard.vmguard("status")
    assert (status.status, "messages to pager are not delivered" in status.out) == (1, True)
    assert scene.guard.vmguard("notify", "status").status == 1
    assert 'vmguard_notify_failing{target="pager"} 1' in scene.guard.vmguard("metrics").out
    assert scene.guard.vmguard("arm").status in (0, 1)
    with web:
        assert eventually(lambda: web.codes == ["watch.disarmed", "watch.armed"], 20)
        assert [body["state"] for body in web.bodies] == ["open", "ended"]
        assert eventually(lambda: "notify.delivered" in scene.codes(), 5)
    assert scene.target("pager")["waiting"] == 0
    assert scene.target("pager")["messages"] == 2
    assert "messages to" not in scene.guard.vmguard("status").out


def test_a_message_whose_answer_is_lost_is_sent_again_under_the_same_id(
    tmp_path: Path, web: WebReceiver, scenes: list[Scene]
) -> None:
    scene = Scene(tmp_path, {"pager": hook(web.url)})
    scenes.append(scene)
    web.hang = True
    scene.something_happens()
    assert eventually(lambda: len(web.requests) == 1, SOON_S)
    web.hang = False
    assert eventually(lambda: len(web.requests) == 2, 10)
    first, second = web.bodies
    assert first["id"] == second["id"]
    assert first["events"] == second["events"]
    time.sleep(1.0)
    assert len(web.requests) == 2


@pytest.mark.parametrize("after_s", [0.0, 1.5])
def test_a_daemon_that_is_killed_is_followed_by_one_that_tells(
    tmp_path: Path, scenes: list[Scene], after_s: float
) -> None:
    """Before the report is in a queue, and behind it."""
    web = WebReceiver()
    scene = Scene(tmp_path, {"pager": hook(web.url, level="info")})
    scenes.append(scene)
    scene.something_happens()
    assert eventually(lambda: scene.target("pager")["waiting"] == 1, SOON_S)
    assert scene.guard.vmguard("arm").status in (0, 1)
    time.sleep(after_s)
    scene.guard.kill()
    with web:
        scene.guard.start()
        assert eventually(lambda: "watch.armed" in web.codes, 30)
        time.sleep(2.0)
        assert web.codes == ["watch.disarmed", "watch.armed"], "once"


# -- many at once -----------------------------------------------------------------------------------------------------


def notices(folder: Path, targets: dict[str, Target], reports: list[Report] | None = None) -> Notices:
    told = Wanted(
        str(folder / "queue"),
        {name: Wish(target.level, target.events) for name, target in targets.items()},
        {name: target.as_json() for name, target in targets.items()},
    )
    return Notices(str(folder), lambda: told, (reports if reports is not None else []).append, lambda: "hyp-a")


def frozen(number: int) -> tuple[Report, dict[str, str]]:
    name = f"vm{number}"
    text = f"VM '{name}' is frozen: nas has not answered for 8 s"
    return Report(Level.WARNING, "vm.freeze", text), {"vm": f"libvirt-{name}", "name": name}


def test_fifty_vms_that_are_frozen_at_one_moment_are_one_message(tmp_path: Path, web: WebReceiver) -> None:
    made = notices(tmp_path, {"pager": Target(type=TargetType.WEBHOOK, url=web.url, timeout=2.0)})
    began = time.monotonic()
    for number in range(50):
        made.tell(*frozen(number))
    assert time.monotonic() - began < 0.2
    assert eventually(lambda: len(web.requests) == 1, SOON_S)
    assert web.bodies[0]["subject"] == "[vmguard hyp-a] 50 VMs are frozen: nas has not answered for 8 s"
    assert eventually(lambda: made.as_json()[0]["messages"] == 1 and made.as_json()[0]["waiting"] == 0, 5)
    made.end()
    assert len(web.requests) == 1


def test_a_storm_is_a_few_messages(tmp_path: Path, web: WebReceiver) -> None:
    made = notices(tmp_path, {"pager": Target(type=TargetType.WEBHOOK, url=web.url, timeout=2.0)})
    for number in range(14):
        made.tell(*frozen(number))
        time.sleep(0.75)
    assert eventually(lambda: len(web.requests) == 6, 10), "as many as may follow each other at once"
    assert not eventually(lambda: len(web.requests) > 6, 2)
    made.end()
    queue = Queue(str(tmp_path / "queue"), "pager")
    told = [event["vm"] for body in web.bodies for event in body["events"]]
    assert sorted({*told, *(event.vm for event in queue.entries()[1])}) == sorted(f"vm{n}" for n in range(14))


# -- what it may never delay ------------------------------------------------------------------------------------------


def reporter(folder: Path, tell: Any) -> Reporter:
    return Reporter(History(str(folder)), Notifier(WantedCommand), lambda vm: {"name": vm}, notices=tell)


FENCE = Report(Level.ERROR, "vm.fence", "VM 'web' is fenced", {"vm": "web"})


def test_a_report_waits_for_no_endpoint(tmp_path: Path) -> None:
    with Silent() as silent:
        target = Target(type=TargetType.WEBHOOK, url=f"http://127.0.0.1:{silent.port}/", timeout=1.0)
        made = notices(tmp_path, {"pager": target})
        took = []
        for _ in range(20):
            began = time.monotonic()
            reporter(tmp_path, made.tell)(FENCE)
            took.append(time.monotonic() - began)
        assert max(took) < 0.2
        assert eventually(lambda: bool(Queue(str(tmp_path / "queue"), "pager").state().tried), SOON_S)
        assert eventually(lambda: not made.running, 10)
        made.end()


def test_negative_control_a_reporter_that_sends_by_itself_is_late(tmp_path: Path) -> None:
    """The same endpoint, and no thread and no job between."""
    with Silent() as silent:
        wanted = Target(type=TargetType.WEBHOOK, url=f"http://127.0.0.1:{silent.port}/", timeout=1.0).as_json()

        def tell(report: Report, fields: dict[str, str]) -> None:
            event = make("", report.code, report.level, report.sentence, fields, "")
            send(compose([event], "hyp-a"), wanted)

        began = time.monotonic()
        reporter(tmp_path, tell)(FENCE)
        assert time.monotonic() - began >= 1.0


def test_a_disk_that_takes_nothing_delays_the_message_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "queue").write_text("a file in its place")
    with WebReceiver() as web:
        made = notices(tmp_path, {"pager": Target(type=TargetType.WEBHOOK, url=web.url, timeout=2.0)})
        reporter(tmp_path, made.tell)(FENCE)
        assert eventually(lambda: "nothing can wait for target pager" in caplog.text, 5)
        (tmp_path / "queue").unlink()
        made.tell(*frozen(1))
        assert eventually(lambda: web.codes == ["vm.fence", "vm.freeze"], SOON_S), "it is told once there is room"
        assert eventually(lambda: not made.running, 5)
        made.end()
