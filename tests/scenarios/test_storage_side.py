"""`vmguard storage` against a real knfsd: what it says must be what the test reads on the server itself."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.lab import Job, Lab, NfsServer
from tests.lab.guest import PYTHON, REPOSITORY
from tests.support.guarded_guests import SHARE, VMGUARD, Guarded, Guest

pytestmark = pytest.mark.lab

LEASE, GRACE = 10, 20
PORT = 7077
CHANNEL = f"{REPOSITORY}/tests/scenarios/inside/storage_channel.py"
DATABASE = "/var/lib/nfs/nfsdcld/main.sqlite"
#: on the server: who may reclaim, or is on record, by the last word of each id
RECORDED = f"""
import sqlite3
link = sqlite3.connect("file:{DATABASE}?mode=ro", uri=True)
current, recovery = link.execute("SELECT current, recovery FROM grace").fetchone()
for epoch in (current, recovery):
    rows = link.execute('SELECT id FROM "rec-%016x"' % epoch).fetchall() if epoch else []
    print(*sorted(row[0].rstrip(bytes(1)).decode().split()[-1].rpartition("/")[2] for row in rows), sep=",")
"""


@dataclass
class Place:
    lab: Lab
    server: NfsServer
    a: Guarded
    b: Guarded
    channel: Job | None = None

    def serve(self) -> None:
        """Have the server answer questions about itself; a reboot ends that."""
        self.channel = self.server.spawn([PYTHON, CHANNEL, "serve", str(PORT)])
        time.sleep(0.5)

    def ask(self, *words: str, node: Guarded | None = None, timeout: float = 120.0) -> tuple[int, dict[str, Any]]:
        answer = (node or self.a).host.run([VMGUARD, *words, "--json"], timeout, check=False)
        said: dict[str, Any] = json.loads(answer.stdout)
        return answer.returncode, said

    def facts(self) -> dict[str, Any]:
        _, said = self.ask("storage", "status")
        [server] = said["servers"]
        assert server["problem"] == ""
        facts: dict[str, Any] = server["facts"]
        return facts

    def recorded(self) -> tuple[list[str], list[str]]:
        """Return whom the server's database names: on record in this epoch, and who may reclaim."""
        lines = self.server.run([PYTHON, "-c", RECORDED]).stdout.split("\n")
        return lines[0].split(",") if lines[0] else [], lines[1].split(",") if lines[1] else []


def config(server: NfsServer) -> str:
    command = f"{PYTHON} {CHANNEL} ask {server.address} {PORT}"
    entry = f"{{transport: command, command: {command}, release_command: {command}, every: 5s, timeout: 30s}}"
    return f"hook: {{wait: 0s}}\nservers: {{{server.address}: {entry}}}\n"


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with Lab() as lab:
        server = lab.nfs_server(lease=LEASE, grace=GRACE, nfs3=True)
        a, b = (Guarded(lab.hypervisor(name), config(server)) for name in ("hyp-a", "hyp-b"))
        found = Place(lab, server, a, b)
        found.serve()
        for node in (a, b):
            node.mount(server)
            node.start_daemon()
        yield found


def hosts(clients: list[dict[str, Any]]) -> list[str]:
    return sorted(client["host"] for client in clients)


def test_what_a_server_says_is_what_it_is(place: Place) -> None:
    web, db = Guest("web"), Guest("db")
    for node, guest in ((place.a, web), (place.b, db)):
        node.make_disks(guest)
        node.start_vm(guest)
    facts = place.facts()
    truth = place.server.clients()
    assert hosts(facts["clients"]) == sorted(client.name.split()[-1] for client in truth) == ["hyp-a", "hyp-b"]
    assert {one["address"] for one in facts["clients"]} == {client.address for client in truth}
    assert (facts["lease"], facts["grace"], facts["lockd_grace"], facts["up"]) == (LEASE, GRACE, GRACE, True)
    assert (facts["in_grace"], facts["this_host_on_record"]) == (False, True)
    assert [name.split()[-1] for name in sorted(facts["recorded"])] == place.recorded()[0]

    _, said = place.ask("storage", "locks")
    assert said["health"]["severity"] == "OK", said
    by_vm = {lock["vm"]: lock["host"] for lock in said["locks"] if lock["vm"]}
    assert by_vm == {"web": "hyp-a"}
    inodes = place.server.run(["stat", "-c", "%i", *web.paths, *db.paths]).stdout.split()
    held = {str(lock["inode"]): lock["host"] for lock in said["locks"]}
    assert held == dict(zip(inodes, ["hyp-a", "hyp-b"], strict=True))

    _, said = place.ask("who", db.paths[0], "--ask-storage")
    assert (said["storage"]["host"], said["storage"]["contradiction"]) == ("hyp-b", "")
    status, said = place.ask("storage", "doctor")
    assert (status, [item["check"] for item in said["findings"] if item["level"] != "OK"]) == (0, [])

    deadline = time.monotonic() + 20
    while (timing := place.ask("timing")[1]["mounts"][0])["grace"] is None:
        assert time.monotonic() < deadline, "the daemon has not asked the server"
        time.sleep(0.5)
    assert (timing["grace"], timing["new_locks_after"]) == (GRACE, GRACE)

    status, said = place.ask("storage", "plan", "reboot", "--down", "30s")
    [mount] = said["mounts"]
    assert (mount["vms"], mount["frozen"], mount["new_locks_at"]) == (["web"], "yes", 30 + GRACE)
    assert 6.0 <= mount["freeze_from"] <= mount["freeze_until"] <= LEASE

    for words in (["--host", "hyp-b", "--host-is-off", "hyp-b"], [db.paths[0], "--host-is-off", "hyp-b"]):
        status, said = place.ask("storage", "release", *words, "--yes")
        assert status == 2
        reasons = [step["text"] for step in said["steps"] if step["step"] == "refused"]
        assert any("renewed its lease" in reason for reason in reasons), said


def test_in_grace_it_names_the_host_that_is_missing(place: Place) -> None:
    place.b.host.power_cut()
    place.server.power_cut()
    time.sleep(3)
    place.server.boot()
    place.server.wait()
    place.serve()
    deadline = time.monotonic() + GRACE
    while True:
        facts, (back, may) = place.facts(), place.recorded()
        if facts["in_grace"] and [name.split()[-1] for name in facts["missing"]] == ["hyp-b"]:
            break
        assert time.monotonic() < deadline, facts
        time.sleep(0.3)
    assert (may, back) == (["hyp-a", "hyp-b"], ["hyp-a"])
    assert 0 < facts["grace_left"] <= GRACE
    started = time.monotonic()
    status, said = place.ask("storage", "status")
    assert status == 1
    assert "missing: hyp-b" in said["health"]["headline"]
    while (over := place.facts())["in_grace"] is not False:
        assert time.monotonic() - started < GRACE + 5
        time.sleep(0.3)
    took = time.monotonic() - started
    assert took == pytest.approx(facts["grace_left"], abs=4.0), "what was said to be left"
    assert over["missing"] == []


def test_a_dead_hosts_state_is_not_released_without_a_word_and_not_in_a_dry_run(place: Place) -> None:
    disk = f"{SHARE}/dead.raw"
    if not place.b.host.is_on():
        place.b.host.boot()
        place.b.mount(place.server)
    assert place.b.host.locker(disk).lock() == "ok"
    place.b.host.power_cut()
    time.sleep(LEASE + 2)
    idle = {client.name.split()[-1]: client.info["seconds from last renew"] for client in place.server.clients()}
    assert int(idle["hyp-b"]) >= LEASE, "a courteous server keeps it"

    def release(*words: str) -> tuple[int, dict[str, str]]:
        status, said = place.ask("storage", "release", disk, *words, timeout=180)
        assert "steps" in said, said
        return status, {step["step"]: f"{step['state']}: {step['text']}" for step in said["steps"]}

    status, steps = release("--yes")
    assert (status, "nobody says that it is off" in steps["refused"]) == (2, True), steps
    status, steps = release("--host-is-off", "hyp-x", "--yes")
    assert (status, "the name typed is hyp-x" in steps["refused"]) == (2, True), steps
    status, steps = release("--host-is-off", "hyp-b")
    assert (status, steps["expire"].startswith("would")) == (0, True), steps
    assert "hyp-b" in [client.name.split()[-1] for client in place.server.clients()], "a dry run changes nothing"


def test_a_forgotten_database_is_said(place: Place) -> None:
    place.server.reboot(forget=True)
    place.serve()
    _, said = place.ask("storage", "explain")
    meanings = [line["meaning"] for line in said["servers"][0]["lines"]]
    assert any("FORGOT" in meaning for meaning in meanings), said
