"""What the daemon tells systemd, and what its unit files must and must not say."""

from __future__ import annotations

import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.service_manager import Manager, open_manager
from vmguard.adapters.linux import parcel, systemd

UNITS = Path(__file__).resolve().parents[2] / "packaging" / "systemd"


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    yield from open_manager(tmp_path, monkeypatch)


def test_a_descriptor_is_stored_under_its_name_and_not_watched(manager: Manager, tmp_path: Path) -> None:
    with (tmp_path / "disk").open("wb") as disk:
        assert systemd.store("libvirt-x.1f.2", disk.fileno())
        said, [packed] = manager.next()
        assert said == ["FDSTORE=1", "FDNAME=libvirt-x.1f.2", "FDPOLL=0"]
        assert stat.S_ISSOCK(os.fstat(packed).st_mode), "PID 1 never closes a file on a share"
        found = systemd.unpack({"libvirt-x.1f.2": packed})
        assert os.path.sameopenfile(found["libvirt-x.1f.2"], disk.fileno())
        os.close(found["libvirt-x.1f.2"])
    assert systemd.forget("libvirt-x.1f.2")
    assert manager.next() == (["FDSTOREREMOVE=1", "FDNAME=libvirt-x.1f.2"], [])


def test_what_an_older_vmguard_stored_is_stored_anew_as_a_parcel(manager: Manager, tmp_path: Path) -> None:
    with (tmp_path / "disk").open("wb") as disk:
        assert systemd.unpack({"libvirt-x.1f.2": disk.fileno()}) == {"libvirt-x.1f.2": disk.fileno()}
        assert manager.next() == (["FDSTOREREMOVE=1", "FDNAME=libvirt-x.1f.2"], [])
        _, [packed] = manager.next()
        copy = parcel.unwrap(packed)
        assert copy is not None
        assert os.path.sameopenfile(copy, disk.fileno())
        assert not os.get_inheritable(copy)
        for fd in (copy, packed):
            os.close(fd)


def test_a_parcel_can_be_opened_again_and_again_and_nothing_else_is_one(tmp_path: Path) -> None:
    with (tmp_path / "disk").open("wb") as disk, parcel.wrap(disk.fileno()) as packed:
        for _ in range(2):
            copy = parcel.unwrap(packed.fileno())
            assert copy is not None
            assert os.path.sameopenfile(copy, disk.fileno())
            os.close(copy)
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with one, other:
            assert parcel.unwrap(one.fileno()) is None, "an empty one"
            one.send(b"vmguard")
            assert parcel.unwrap(other.fileno()) is None, "without a descriptor"
        assert parcel.unwrap(disk.fileno()) is None


def test_the_barrier_falls_when_the_manager_closes_its_end(manager: Manager) -> None:
    fallen: list[bool] = []
    thread = threading.Thread(target=lambda: fallen.append(systemd.barrier()))
    thread.start()
    said, [end] = manager.next()
    assert said == ["BARRIER=1"]
    time.sleep(0.1)
    assert not fallen
    os.close(end)
    thread.join(3)
    assert fallen == [True]


def test_a_manager_that_does_not_answer_is_reported(manager: Manager) -> None:
    before = os.listdir("/proc/self/fd")
    assert not systemd.barrier(0.05)
    assert os.listdir("/proc/self/fd") == before


def test_without_systemd_all_of_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert systemd.barrier()
    assert not systemd.store("libvirt-x.1.2", 0)
    assert systemd.keepers() == set()


def test_a_manager_that_stands_still_holds_the_loop_up_once_and_shortly(manager: Manager) -> None:
    times = [100.0]
    stuck = systemd.ServiceManager(lambda: times[-1])
    began = time.monotonic()
    while stuck.notify("STATUS=x"):  # nobody reads: the queue gets full
        pass
    for _ in range(20):
        assert not stuck.notify("STATUS=x")
    assert time.monotonic() - began < 2
    manager.next()
    times.append(200.0)
    assert stuck.notify("STATUS=x"), "it is asked again later"


def test_a_manager_that_is_gone_is_no_barrier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    assert not systemd.barrier(1)


class Calls:
    """A loop's ``call_in`` that only remembers."""

    def __init__(self) -> None:
        self.waiting: list[tuple[float, Callable[[], None]]] = []

    def call_in(self, seconds: float, callback: Callable[[], None]) -> None:
        self.waiting.append((seconds, callback))


def test_the_watchdog_is_pinged_three_times_in_its_interval(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    calls = Calls()
    systemd.keep_alive(calls.call_in)
    for _ in range(3):
        assert manager.next()[0] == ["WATCHDOG=1"]
        [(seconds, again)] = calls.waiting
        assert seconds == pytest.approx(10)
        calls.waiting.clear()
        again()


@pytest.mark.parametrize(("microseconds", "pid"), [("", "me"), ("soon", "me"), ("30000000", "1")])
def test_somebody_elses_watchdog_is_left_alone(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, microseconds: str, pid: str
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", microseconds)
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "me" else pid)
    calls = Calls()
    systemd.keep_alive(calls.call_in)
    assert calls.waiting == []


def test_what_is_local_or_cannot_write_may_be_stored(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.touch()
    for flags in (os.O_RDWR, os.O_RDONLY):
        fd = os.open(path, flags)
        assert systemd.may_store(fd)
        os.close(fd)


# -- the unit files -------------------------------------------------------------------------------------------------


def settings(name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (UNITS / name).read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_the_service_has_no_mount_namespace_of_its_own() -> None:
    """A claim's descriptor names its mount by an id of the host's namespace."""
    private = ("Private", "Protect", "ReadOnly", "ReadWrite", "Inaccessible", "Bind", "Temporary", "Root", "MountFlags")
    said = [key for key in settings("vmguard.service") if key.startswith(private) or "Directory" in key]
    harmless = {"RuntimeDirectory", "RuntimeDirectoryMode", "RuntimeDirectoryPreserve"}
    assert set(said) <= harmless | {"StateDirectory", "StateDirectoryMode"}


def test_a_reload_reads_the_configuration_before_the_daemon_does() -> None:
    check, signal = settings("vmguard.service")["ExecReload"]
    assert check == "/usr/bin/vmguard config check"
    assert signal.endswith("-HUP $MAINPID")


def test_the_service_keeps_what_a_restart_needs() -> None:
    service = settings("vmguard.service")
    assert service["Type"] == ["notify"]
    assert int(service["FileDescriptorStoreMax"][0]) >= 4000
    assert service["RuntimeDirectoryPreserve"] == ["yes"]
    assert service["KillMode"] == ["process"]
    assert service["Restart"] == ["always"]
    capabilities = " ".join(service["CapabilityBoundingSet"]).split()
    assert {"CAP_SYS_PTRACE", "CAP_KILL", "CAP_DAC_OVERRIDE", "CAP_IPC_LOCK"} <= set(capabilities)


def test_the_socket_is_where_the_daemon_and_its_clients_look() -> None:
    from vmguard.hook.entry import RUN_DIR
    from vmguard.protocol.wire import SOCKET_NAME

    unit = settings("vmguard.socket")
    assert unit["ListenSequentialPacket"] == [f"{RUN_DIR}/{SOCKET_NAME}"]
    assert unit["SocketMode"] == ["0600"]
    # systemd names the socket's descriptor like its unit; stored ones have a hyphen (vmguard/daemon/main.py).
    assert "FileDescriptorName" not in unit
    assert "-" not in "vmguard.socket"
