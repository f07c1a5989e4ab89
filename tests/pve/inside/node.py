"""A small stand-in for one Proxmox node: ``node.py VERB VMID [WORD=VALUE...]``, with real QEMU processes.

Each rule names the source it follows (QS = qemu-server src/PVE/QemuServer.pm). It reproduces the order of the hooks,
the flock around them, the ownership of configurations, and what is NOT called when something fails.

start [migratedfrom=NODE incoming=URI] [skiplock=1] [paused=1] [failing=activate|qemu]   stop [timeout=S]   shutdown
poweroff   reboot   backup   suspend   rollback   snapshot name=NAME   cleanup   running
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.abspath(f"{__file__}/../../../.."))
from tests.pve.inside import tpm
from tests.pve.inside.hooks import HookFailed, exec_hookscript

PVE = os.environ.get("PVE_DIR", "/etc/pve")
RUN = "/run/qemu-server"
LOCKS = os.environ.get("PVE_LOCK_DIR", "/var/lock/qemu-server")
SNIPPETS = os.environ.get("PVE_SNIPPETS_DIR", "/var/lib/vz/snippets")
EMULATOR = "/usr/bin/qemu-system-x86_64"
NODE = os.uname().nodename.partition(".")[0]  # PVE::INotify, nodename


class Died(Exception):
    """The error that stands for Perl's die: the task ends with this text."""


# -- configurations: nodes/NAME/qemu-server owns a VM (pmxcfs.adoc) ------------------------------------------------


def config_path(vmid: str, node: str = NODE) -> str:
    return f"{PVE}/nodes/{node}/qemu-server/{vmid}.conf"


def load(vmid: str, node: str = NODE) -> dict[str, str]:
    """The main section (QS parse_vm_config)."""
    try:
        with open(config_path(vmid, node)) as stream:
            main = stream.read().partition("\n[")[0]
    except FileNotFoundError:
        raise Died(f"Configuration file 'nodes/{node}/qemu-server/{vmid}.conf' does not exist") from None
    lines = [line.partition(": ") for line in main.splitlines() if not line.startswith("#")]
    return {key: value.strip() for key, sign, value in lines if sign}


def save(vmid: str, config: dict[str, str]) -> None:
    path = config_path(vmid)
    with open(path + ".tmp", "w") as stream:
        stream.writelines(f"{key}: {value}\n" for key, value in config.items())
    os.rename(path + ".tmp", path)


def apply_pending(vmid: str) -> None:
    """QS vm_start_nolock: pending changes are applied before pre-start, unless migrating or resuming."""
    with open(config_path(vmid)) as stream:
        _, found, pending = stream.read().partition("[PENDING]\n")
    if found:
        config = load(vmid)
        for line in pending.splitlines():
            key, _, value = line.partition(": ")
            if key == "delete":
                for name in value.split(","):
                    config.pop(name, None)
            else:
                config[key] = value
        save(vmid, config)


class VmLock:
    """QemuConfig.pm lock_config: an exclusive flock on lock-VMID.conf with a timeout of 10 s, held around the hooks."""

    def __init__(self, vmid: str, patience: float = 10.0) -> None:
        os.makedirs(LOCKS, exist_ok=True)
        self._path, self._patience = f"{LOCKS}/lock-{vmid}.conf", patience

    def __enter__(self) -> None:
        self._file = open(self._path, "w")
        deadline = time.monotonic() + self._patience
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Died(f"can't lock file '{self._path}' - got timeout") from None
                time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        self._file.close()


def hook(config: dict[str, str], vmid: str, phase: str, stop_on_error: bool = False) -> None:
    volume = config.get("hookscript", "")
    exec_hookscript(f"{SNIPPETS}/{volume.partition('snippets/')[2]}" if volume else "", vmid, phase, stop_on_error)


# -- QEMU ------------------------------------------------------------------------------------------------------------


def running(vmid: str) -> int:
    """Helpers.pm vm_running_locally: the pid file, believed only with kvm or qemu-* and this very -pidfile; 0: none."""
    try:
        with open(f"{RUN}/{vmid}.pid") as stream:
            pid = int(stream.read())
        with open(f"/proc/{pid}/cmdline") as stream:
            words = stream.read().split("\0")
    except (OSError, ValueError):
        return 0
    return pid if "qemu-" in words[0] and f"/var/run/qemu-server/{vmid}.pid" in words else 0


def place(value: str) -> tuple[str, str]:
    """Path and format of a drive of the storage ``nas``, which the scenarios use (Storage/Plugin.pm)."""
    name = value.split(",")[0].partition(":")[2].split("/")
    return f"/mnt/pve/nas/images/{name[-2]}/{name[-1]}", name[-1].rpartition(".")[2]


def blockdevs(name: str, path: str, format: str, read_only: str) -> list[str]:
    """A disk and its backing chain, each file named: pve-qemu patch 0001 has locking off for all of them, and stock
    QEMU, which stands in for it, would lock what it opens by itself."""
    file = f"driver=file,node-name=file-{name},filename={path},locking=off,cache.direct=on,read-only={read_only}"
    node = f"driver={format},node-name={name},file=file-{name},read-only={read_only}"
    info = json.loads(subprocess.check_output(["qemu-img", "info", "-U", "--output=json", "-f", format, path]))
    below = info.get("full-backing-filename")
    if not below:
        return ["-blockdev", file, "-blockdev", node]
    lower = blockdevs(f"{name}-below", below, info["backing-filename-format"], "on")
    return [*lower, "-blockdev", file, "-blockdev", f"{node},backing={name}-below"]


def command(vmid: str, config: dict[str, str], paused: bool) -> list[str]:
    """QS config_to_command, as far as the guard can see it. (``-id VMID`` exists in Proxmox's own QEMU alone.)"""
    drives = []
    for key, value in config.items():
        if not key.startswith(("scsi", "virtio")) or not key[-1].isdigit():
            continue
        read_only = "on" if config.get("template") == "1" or ",ro=1" in value else "off"
        drives += blockdevs(key, *place(value), read_only)
        drives += ["-device", f"virtio-blk,drive={key},werror=report"]
    return [
        *(EMULATOR, "-name", f"{config.get('name', vmid)},debug-threads=on", "-no-shutdown"),
        *("-chardev", f"socket,id=qmp,path=/var/run/qemu-server/{vmid}.qmp,server=on,wait=off"),
        *("-mon", "chardev=qmp,mode=control", "-pidfile", f"/var/run/qemu-server/{vmid}.pid", "-daemonize"),
        *("-accel", "tcg", "-m", "16", "-nodefaults", "-display", "none", "-serial", f"file:{RUN}/{vmid}.serial"),
        *drives,
        *(["-S"] if paused else []),
    ]


def qmp(vmid: str, order: str, **arguments: object) -> None:
    """One client at a time, closed at once (QMPClient.pm)."""
    orders = [{"execute": "qmp_capabilities"}, {"execute": order, "arguments": arguments}]
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(5)
        line.connect(f"{RUN}/{vmid}.qmp")
        stream = line.makefile("rw")
        stream.readline()
        for item in orders:
            stream.write(json.dumps(item) + "\n")
            stream.flush()
            while "event" in (answer := json.loads(stream.readline() or "{}")):
                pass
            if "error" in answer:
                raise Died(f"VM {vmid} qmp command '{order}' failed - {answer['error']['desc']}")


def gone(vmid: str, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while running(vmid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


# -- tasks -----------------------------------------------------------------------------------------------------------


def start(vmid: str, words: dict[str, str]) -> None:
    """QS vm_start, vm_start_nolock."""
    with VmLock(vmid):
        start_nolock(vmid, words)


def start_nolock(vmid: str, words: dict[str, str]) -> None:
    source = words.get("migratedfrom", "")
    config = load(vmid, source or NODE)  # QS vm_start: the configuration is still the source's during a migration
    if config.get("lock") and not words.get("skiplock") and config["lock"] != "suspended":
        raise Died(f"VM is locked ({config['lock']})")
    if running(vmid):
        raise Died(f"VM {vmid} already running")
    if not source and "vmstate" not in config:
        apply_pending(vmid)
        config = load(vmid)
    os.environ["PVE_MIGRATED_FROM"] = source  # present at every local start, empty when nothing migrates
    hook(config, vmid, "pre-start", stop_on_error=True)
    # Both error paths from here on deactivate volumes and die: no post-stop, no post-start.
    if words.get("failing") == "activate":
        raise Died("storage 'nas' is not online")
    os.makedirs(RUN, exist_ok=True)
    argv = command(vmid, config, bool(words.get("paused")))
    if "tpmstate0" in config:
        argv += tpm.start(vmid, place(config["tpmstate0"])[0])
    if words.get("incoming"):
        argv += ["-incoming", words["incoming"]]
    if words.get("failing") == "qemu":
        argv += ["-device", "no-such-device"]
    with open(f"{RUN}/{vmid}.cleanup", "w"):  # flag of `qm cleanup`, made at start
        pass
    result = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if result.returncode:
        raise Died(f"start failed: QEMU exited with code {result.returncode}: {result.stderr}")
    if config.get("lock") == "suspended":  # QS: after a resume the state is removed and the lock given back
        save(vmid, {key: value for key, value in config.items() if key not in ("lock", "vmstate")})
    watch(vmid, running(vmid))
    hook(config, vmid, "post-start")


def watch(vmid: str, pid: int) -> None:
    """qmeventd: it sees the end of QEMU's socket, then runs `qm cleanup VMID 0 0`. It holds no pipe of
    another process. It never learns of a QEMU that ends while it is down."""
    if os.path.exists(f"{RUN}/no-qmeventd") or os.fork():
        return
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.closerange(3, 256)
    while os.path.exists(f"/proc/{pid}"):
        time.sleep(0.1)
    os.execv(sys.executable, ["qm cleanup", os.path.abspath(__file__), "cleanup", vmid])


def stop(vmid: str, words: dict[str, str]) -> None:
    """QS vm_stop, _do_vm_stop: ends without looking whether QEMU is gone."""
    with VmLock(vmid):
        stop_nolock(vmid, words)


def stop_nolock(vmid: str, words: dict[str, str]) -> None:
    pid = running(vmid)
    if not pid:
        return
    config = load(vmid)
    hook(config, vmid, "pre-stop")
    try:
        qmp(vmid, "quit")
    except OSError as problem:
        print(f"WARN: VM quit failed: {problem}", file=sys.stderr)
    if not gone(vmid, float(words.get("timeout", "60"))):
        os.kill(pid, signal.SIGTERM)
        if not gone(vmid, 10):
            os.kill(pid, signal.SIGKILL)
            time.sleep(1)
    stop_cleanup(vmid, config)


def stop_cleanup(vmid: str, config: dict[str, str]) -> None:
    """QS vm_stop_cleanup: pid file and sockets go, then post-stop. The flag: only the first of two cleanups counts."""
    try:
        os.unlink(f"{RUN}/{vmid}.cleanup")
    except FileNotFoundError:
        return
    for suffix in ("pid", "qmp"):
        try:
            os.unlink(f"{RUN}/{vmid}.{suffix}")
        except FileNotFoundError:
            pass
    hook(config, vmid, "post-stop")


def cleanup(vmid: str, words: dict[str, str]) -> None:
    """CLI/qm.pm cleanup: nothing when the VM is not this node's; 60 s for the flock; not while it rolls back."""
    if not os.path.exists(config_path(vmid)):
        return
    with VmLock(vmid, 60):
        if running(vmid) and not gone(vmid, 30):
            raise Died(f"vm {vmid} still running")
        config = load(vmid)
        if config.get("lock") != "rollback":
            stop_cleanup(vmid, config)


def shutdown(vmid: str, words: dict[str, str]) -> None:
    """QS vm_shutdown: as stop, but the guest is asked. The heartbeat guest knows no ACPI, so it is QEMU that ends."""
    stop(vmid, words)


def reboot(vmid: str, words: dict[str, str]) -> None:
    """QS vm_reboot: the request is a file; `qm cleanup`, a child of qmeventd, starts the VM again."""
    stop(vmid, words)
    start(vmid, words)


def backup(vmid: str, words: dict[str, str]) -> None:
    """VZDump/QemuServer.pm enforce_vm_running_for_backup: a stopped VM is started with -S, then stopped."""
    start(vmid, {"skiplock": "1", "paused": "1"})
    stop(vmid, {})


def suspend(vmid: str, words: dict[str, str]) -> None:
    """RunState.pm vm_suspend to disk: the state is written, QMP quit; post-stop comes from `qm cleanup` alone."""
    with VmLock(vmid):
        config = load(vmid)
        state = f"vm-{vmid}-state-suspend.raw"
        with open(f"/mnt/pve/nas/images/{vmid}/{state}", "w") as stream:
            stream.write("state")
        save(vmid, {**config, "lock": "suspended", "vmstate": f"nas:{vmid}/{state}"})
        qmp(vmid, "quit")
    gone(vmid, 30)


def rollback(vmid: str, words: dict[str, str]) -> None:
    """QemuConfig.pm __snapshot_rollback_vm_stop: a stop with 5 s of patience, then a start."""
    stop(vmid, {"timeout": "5"})
    start(vmid, {})


def poweroff(vmid: str, words: dict[str, str]) -> None:
    """The guest switches itself off: no task; qmeventd sees SHUTDOWN, sends quit, and cleans up at the socket's end."""
    qmp(vmid, "quit")


def snapshot(vmid: str, words: dict[str, str]) -> None:
    """VolumeChain.pm: the active file is renamed and opened anew by that name, then a new one gets its old name."""
    with VmLock(vmid):
        path, format = place(load(vmid)["scsi0"])
        folder, name = os.path.split(path)
        below, overlay = f"{folder}/snap-{words['name']}-{name}", f"scsi0-{words['name']}"
        os.rename(path, below)
        add_file(vmid, f"file-snap-{words['name']}", below)
        node = {"driver": format, "node-name": "scsi0", "file": f"file-snap-{words['name']}"}
        qmp(vmid, "blockdev-reopen", options=[node])
        qmp(vmid, "blockdev-del", **{"node-name": "file-scsi0"})
        create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", format, "-b", os.path.basename(below), path, "1M"]
        subprocess.run(create, check=True, cwd=folder)
        add_file(vmid, f"file-{overlay}", path)
        qmp(vmid, "blockdev-add", driver="qcow2", backing=None, file=f"file-{overlay}", **{"node-name": overlay})
        qmp(vmid, "blockdev-snapshot", node="scsi0", overlay=overlay)


def add_file(vmid: str, node: str, path: str) -> None:
    options = {"driver": "file", "filename": path, "locking": "off", "cache": {"direct": True}, "auto-read-only": True}
    qmp(vmid, "blockdev-add", **options, **{"node-name": node})


VERBS = {f.__name__: f for f in (start, stop, shutdown, poweroff, reboot, backup, suspend, rollback, snapshot, cleanup)}
TYPES = {"start": "qmstart", "backup": "vzdump"}


def main() -> int:
    verb, vmid, *pairs = sys.argv[1:]
    if verb == "running":
        print(running(vmid))
        return 0
    if "VMGUARD_PVE_TASK" not in os.environ and verb != "cleanup":
        # RESTEnvironment.pm fork_worker: the worker's title names the task
        title = f"task UPID:{NODE}:{os.getpid():08X}:0:0:{TYPES.get(verb, 'qm' + verb)}:{vmid}:root@pam:"
        os.environ["VMGUARD_PVE_TASK"] = title
        os.execv(sys.executable, [title, os.path.abspath(__file__), *sys.argv[1:]])
    if sys.orig_argv[0].startswith("task "):
        with open("/proc/self/comm", "w") as comm:  # Perl sets it with the title, 15 letters of it (perlvar, $0)
            comm.write(sys.orig_argv[0][:15])
    try:
        VERBS[verb](vmid, dict(pair.split("=", 1) for pair in pairs))
    except (Died, HookFailed) as problem:
        print(f"TASK ERROR: {problem}", file=sys.stderr)
        return 255
    return 0


if __name__ == "__main__":
    sys.exit(main())
