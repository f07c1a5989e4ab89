"""The guesses become numbers where a server has said them; without a fresh answer everything is as before."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.server_documents import document, encoded, in_grace
from tests.support.simulated_loop import SimulatedLoop
from vmguard.adapters.linux import clock
from vmguard.adapters.linux.mounts import Mount
from vmguard.adapters.linux.mountstats import NfsStatistics
from vmguard.adapters.servers import cache
from vmguard.adapters.servers.knfsd import parse
from vmguard.cli.storage.holder import contradiction
from vmguard.config import BadConfig, Config, Server, last_good, load
from vmguard.core import lean_json
from vmguard.core.locks.owner_record import Owner
from vmguard.core.servers.facts import Client
from vmguard.daemon.runtime.loop import Loop
from vmguard.daemon.settings import Settings
from vmguard.daemon.watch.server_answers import ServerAnswers
from vmguard.doctor.facts import HostFacts, IdentityFacts, MountFacts
from vmguard.doctor.finding import Level
from vmguard.doctor.judge_mount import _reconnect
from vmguard.hook.claim_wait import lease_and_grace
from vmguard.protocol.messages import ClaimSettings
from vmguard.query import server_cache
from vmguard.query.answers import LockOnShare
from vmguard.query.judge import Holder
from vmguard.query.places import Places
from vmguard.query.wording import holder_todo

VM = Mount(1, 40, "/srv/vm", "nfs4", "nas:/vm", "vers=4.2")
ISO = Mount(2, 41, "/srv/iso", "nfs4", "nas:/iso", "vers=4.2")
OTHER = Mount(3, 42, "/srv/other", "nfs4", "nas2:/vm", "vers=4.2")
LOCKD = {"versions": "+3 +4\n", "nlm_end_grace": "Y\n", "nlm_grace_period": "0\n", "nlm_timeout": "10\n"}
NOW = datetime.datetime(2026, 11, 28, 9, 0, tzinfo=datetime.UTC)


def answers(tmp_path: Path, config: Config, table: Sequence[Mount] = (VM, ISO, OTHER)) -> ServerAnswers:
    return ServerAnswers(SimulatedLoop(), str(tmp_path), lambda: config, lambda: table)


def keep(tmp_path: Path, made: dict[str, Any], name: str = "nas") -> None:
    cache.keep(str(tmp_path), name, parse(encoded(made)))


def short(**files: str) -> dict[str, Any]:
    """A server with a lease of 30 s, a grace period of 45 s, and lockd's of 50 s."""
    made = document()
    made["files"] |= {"nfsv4leasetime": "30\n", "nfsv4gracetime": "45\n", **files}
    return made


ONE = Config(servers={"nas": Server()})


def test_a_claim_waits_by_the_servers_own_grace_period(tmp_path: Path) -> None:
    keep(tmp_path, short(**LOCKD))
    assert answers(tmp_path, ONE).waits() == {"/srv/vm": 85.0, "/srv/iso": 85.0}
    keep(tmp_path, short())
    assert answers(tmp_path, ONE).waits() == {"/srv/vm": 80.0, "/srv/iso": 80.0}


def test_an_entry_may_be_about_one_mount(tmp_path: Path) -> None:
    keep(tmp_path, short(), "/srv/iso")
    config = Config(servers={"/srv/iso": Server()})
    assert answers(tmp_path, config).waits() == {"/srv/iso": 80.0}


def test_without_an_entry_or_an_answer_nothing_is_said(tmp_path: Path) -> None:
    assert answers(tmp_path, ONE).waits() == {}
    assert answers(tmp_path, ONE).words() == ""
    keep(tmp_path, in_grace(["hyp-a"], []))
    assert answers(tmp_path, Config()).waits() == {}
    assert answers(tmp_path, Config()).words() == ""


def test_only_a_hook_that_may_wait_is_told_how_long(tmp_path: Path) -> None:
    keep(tmp_path, short())
    settings = Settings(lambda: ONE, answers(tmp_path, ONE))
    assert settings.claim("proxmox", None).server_waits == {"/srv/vm": 80.0, "/srv/iso": 80.0}
    assert settings.claim("libvirt", None).server_waits == {}


def test_the_hook_goes_by_what_was_told_and_guesses_the_rest() -> None:
    mounted = {point: NfsStatistics(point) for point in ("/srv/vm", "/srv/iso")}
    for seen in mounted.values():
        seen.lease = 30.0
    assert lease_and_grace({}, mounted) == 65.0
    assert lease_and_grace({"/srv/vm": 85.0}, mounted) == 85.0
    assert lease_and_grace({"/srv/vm": 40.0, "/srv/iso": 50.0}, mounted) == 50.0
    assert lease_and_grace({"/srv/other": 900.0}, mounted) == 65.0
    assert lease_and_grace({}, {}) == 189.0


def test_what_was_told_is_the_same_behind_the_wire(tmp_path: Path) -> None:
    keep(tmp_path, in_grace(["hyp-a"], []))
    said = Settings(lambda: ONE, answers(tmp_path, ONE)).claim("proxmox", None)
    again = ClaimSettings.from_json(lean_json.decode(lean_json.encode(said.as_json())))
    assert (again.server_waits, again.server_words) == (said.server_waits, said.server_words) != ({}, "")


def test_a_claim_is_told_that_the_server_is_in_grace(tmp_path: Path) -> None:
    keep(tmp_path, in_grace(["hyp-a"], []))
    loop = SimulatedLoop()
    told = ServerAnswers(loop, str(tmp_path), lambda: ONE, lambda: [VM])
    kept = told.kept(VM)
    assert kept is not None
    assert kept[1].free_in(kept[1].at) == 78.0
    words = Settings(lambda: ONE, told).claim("libvirt", None).server_words
    assert words.startswith("nas is in its grace period: new locks wait ")


def test_a_server_is_asked_now_and_then_and_at_once_when_it_was_restarted(tmp_path: Path) -> None:
    loop, asked, counts = SimulatedLoop(), list[str](), {"/srv/vm": [b"1"]}

    def start_job(_: Loop, module: str, done: Callable[[int], None], stdin: dict[str, Any], seconds: float) -> None:
        asked.append(f"{module} {stdin['name']}")
        done(0)

    ServerAnswers(loop, str(tmp_path), lambda: ONE, lambda: [VM], lambda _: dict(counts), start_job).start()
    assert asked == ["ask_server nas"]
    loop.pass_by(29.0, 1.0)
    assert len(asked) == 1
    loop.pass_by(6.0, 1.0)
    assert len(asked) == 2
    counts["/srv/vm"] = [b"2"]
    loop.pass_by(6.0, 1.0)
    assert len(asked) == 3
    loop.pass_by(12.0, 1.0)
    assert len(asked) == 3


def test_nobody_is_asked_without_an_entry(tmp_path: Path) -> None:
    loop = SimulatedLoop()
    ServerAnswers(loop, str(tmp_path), Config, lambda: [VM], lambda _: pytest.fail("looked")).start()
    loop.pass_by(60.0, 1.0)


def test_a_lock_is_free_no_earlier_than_the_grace_period_ends() -> None:
    owner = Owner(3, host="hyp-b", claimed="2026-11-28T08:00:00Z")
    lock = LockOnShare(True, owner, "", (), 10.0, 7)
    told = holder_todo(Holder.HOST, dataclasses.replace(lock, grace_left=40.0), NOW)
    free = (NOW + datetime.timedelta(seconds=40)).astimezone()
    assert f"from {free:%H:%M:%S %Z} on at the latest; by the server's own word" in told
    assert "own word" not in holder_todo(Holder.HOST, lock, NOW)


def test_commands_read_what_the_daemon_keeps(tmp_path: Path) -> None:
    keep(tmp_path, in_grace(["hyp-a"], []))
    places = Places(str(tmp_path), "", "", "", servers=(("nas", 60.0),))
    kept = server_cache.of_mount(VM, places)
    assert kept is not None
    assert 70.0 < server_cache.grace_left(kept) <= 78.0
    assert server_cache.of_mount(OTHER, places) is None
    stale = dataclasses.replace(kept, at=clock.boottime() - 100.0)
    assert server_cache.grace_left(stale) == 0.0


@pytest.mark.parametrize(("grace", "level"), [(None, Level.WARN), (10.0, Level.WARN), (30.0, Level.OK)])
def test_the_doctor_knows_the_grace_period_where_it_was_told(grace: float | None, level: Level) -> None:
    host = HostFacts(release="6.1.0", kernel="#1 SMP Debian 6.1.176-1", identity=IdentityFacts("hyp-a"))
    found = _reconnect(MountFacts("/srv/vm", "nas:/vm", "4.2", lease=10.0, grace=grace), host)
    assert found.level is level
    assert ("not visible from here" in found.text) is (grace is None)


def test_the_servers_word_against_the_owner_record_is_shown() -> None:
    client = Client("3", "0x1", "Linux NFSv4.2 hyp-c", "10.0.0.3:791", "confirmed")
    assert contradiction(client, None) == ""
    assert contradiction(client, Owner(1, host="hyp-c")) == ""
    assert "names hyp-b: the server's word counts" in contradiction(client, Owner(1, host="hyp-b"))
    assert "was released" in contradiction(client, Owner(1, host="hyp-b", released="2026-11-28T08:00:00Z"))


# -- the configuration ------------------------------------------------------------------------------------------------


def loaded(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return load([str(path)])


def test_a_server_is_configured(tmp_path: Path) -> None:
    iso = "{transport: command, command: docker exec -i n python3 -I -}"
    text = f"servers:\n  nas:\n    destination: root@nas\n  /srv/iso: {iso}\n"
    found = loaded(tmp_path, text).servers
    assert found["nas"] == Server(destination="root@nas")
    assert found["/srv/iso"].command == ("docker", "exec", "-i", "n", "python3", "-I", "-")


def test_what_was_set_is_kept_as_the_last_good_configuration(tmp_path: Path) -> None:
    text = "servers: {nas: {transport: command, command: \"sh -c 'a b'\", every: 1m}, b: {partner: nas}}"
    config = loaded(tmp_path, text)
    assert loaded(tmp_path, last_good.text(config)).servers == config.servers


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("{transport: command}", "servers.nas.transport: is command, but there is no command"),
        ("{partner: nas}", "servers.nas.partner: is no other entry of servers"),
        ("{destination: -oProxyCommand=x}", "is not a destination of ssh"),
        ("{kind: ontap}", "is not knfsd"),
        ("{command: [a, b]}", "servers.nas.command: takes a value"),
        ('{command: "a \'b"}', "cannot be split into words"),
        ("{trasport: ssh}", "unknown key; did you mean 'transport'?"),
        ("ssh", "must hold lines such as 'transport: ssh'"),
    ],
)
def test_a_mistake_in_an_entry_is_named(tmp_path: Path, entry: str, says: str) -> None:
    with pytest.raises(BadConfig) as bad:
        loaded(tmp_path, f"servers:\n  nas: {entry}\n")
    assert says in bad.value.message
