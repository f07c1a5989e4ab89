"""The unit files' sandboxes under a real systemd: what the daemon and the metrics can still do in them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab import Lab, NfsServer
from tests.lab.guest import PYTHON, REPOSITORY
from tests.scenarios.kept import PACKAGED, UNITS, Units, until
from tests.support.guarded_guests import SHARE, Guest

pytestmark = pytest.mark.lab

COLLECTOR = "/var/lib/prometheus/node-exporter"
PUBLIC = "/opt/vmguard"


class Place:
    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.server: NfsServer = lab.nfs_server(lease=10, grace=10)
        self.node = Units(lab.hypervisor("hyp-a", mem="1G", init="systemd"), "hook: {wait: 1s}\n")
        self.node.mount(self.server)
        self.node.start_daemon()

    def in_sandbox(self, code: str, *words: str, more: str = "") -> tuple[int, str]:
        """Run a program of Python's in the daemon's sandbox, once; return its exit status and what it said."""
        host = self.node.host
        text = (PACKAGED / "vmguard.service").read_text().replace("Wants=vmguard.socket\n", "")
        host.put(f"{UNITS}/sandbox.service", text.encode())
        host.put("/etc/sandbox.py", f"import sys\nsys.path.insert(0, {str(REPOSITORY)!r})\n{code}".encode())
        lines = ["[Service]", "Type=oneshot", "Restart=no", "WatchdogSec=0", "RuntimeDirectory=", "ExecStart="]
        lines += [f"ExecStart={PYTHON} -IS /etc/sandbox.py {' '.join(words)}", "ExecReload=", more]
        host.put(f"{UNITS}/sandbox.service.d/once.conf", "\n".join(lines).encode())
        self.node.systemctl("daemon-reload")
        host.run("systemctl start sandbox.service", 60, check=False)
        status = int(self.node.systemctl("show sandbox.service --value -p ExecMainStatus"))
        return status, host.run("journalctl --no-pager -o cat -u sandbox.service", 20, check=False).stdout


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with Lab() as lab:
        yield Place(lab)


#: what only the sandbox refuses: CAP_SYS_ADMIN would allow it
REFUSED = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def refused(name, *words):
    return getattr(libc, name)(*words) == -1 and ctypes.get_errno() == 1
NEWNET, NEWUSER = 0x40000000, 0x10000000
assert refused("unshare", NEWNET) and refused("unshare", NEWUSER)
assert refused("sethostname", b"x", 1)
assert refused("chroot", b"/")
assert refused("reboot", 0)
assert refused("ptrace", 16, 1, 0, 0)
"""
#: what the daemon lives on; the rest is in tests/scenarios/test_systemd.py, whose daemon runs by the same unit
GRANTED = """
import os
from vmguard.adapters.linux import oom_and_scheduling, pidfd
os.close(os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK))
os.close(pidfd.copy_descriptor(os.pidfd_open(int(sys.argv[1])), 1))
os.kill(int(sys.argv[1]), 18)
oom_and_scheduling.lock()
oom_and_scheduling.realtime()
os.seteuid(64055)
"""


def test_what_the_daemon_never_does_is_refused(place: Place) -> None:
    status, said = place.in_sandbox(REFUSED)
    assert status == 0, said


def test_what_the_daemon_lives_on_is_granted(place: Place) -> None:
    other = place.node.host.spawn(["setpriv", "--reuid", "1234", "--clear-groups", "sleep", "60"])
    status, said = place.in_sandbox(GRANTED, str(other.wait_started()))
    assert status == 0, said
    other.kill()


def test_the_daemon_runs_filtered(place: Place) -> None:
    status = place.node.host.run(f"cat /proc/{place.node.pid()}/status").stdout
    assert "Seccomp:\t2" in status
    assert "NoNewPrivs:\t1" in status


CUT = "from vmguard.jobs.cut import main\nsys.exit(main())\n"


def test_the_requests_of_a_mount_are_cut_off_in_the_daemons_sandbox(place: Place) -> None:
    status, said = place.in_sandbox(CUT, SHARE)
    assert status == 0, said


def test_control_without_mount_namespaces_they_are_not(place: Place) -> None:
    status, said = place.in_sandbox(CUT, SHARE, more="RestrictNamespaces=yes")
    assert status == 1
    assert "could not be cut off" in said


def install_for_readers(node: Units) -> None:
    """Do what the packages do: the group, the user, and vmguard where that user may read it."""
    users = PACKAGED.parent / "users"
    node.host.put("/usr/lib/sysusers.d/vmguard.conf", (users / "sysusers.conf").read_bytes())
    node.host.put("/usr/share/vmguard/metrics-folder.conf", (users / "metrics-folder.conf").read_bytes())
    node.host.run(f"systemd-sysusers vmguard.conf; mkdir -p {PUBLIC}; mount --bind {REPOSITORY} {PUBLIC}")


def test_the_metrics_are_written_by_a_user_of_their_own(place: Place) -> None:
    node, guest = place.node, Guest("web")
    install_for_readers(node)
    node.systemctl("restart vmguard.service", 60)
    node.make_disks(guest)
    vm = node.start_vm(guest)
    node.host.run(f"mkdir -p {COLLECTOR}; chown nobody {COLLECTOR}")
    command = f"{PUBLIC}/.venv/bin/python -m vmguard metrics --output {COLLECTOR}/vmguard.prom --every 1s"
    lines = f"[Service]\nEnvironment=PYTHONPATH={PUBLIC}\nExecStart=\nExecStart={command}\n"
    node.host.put(f"{UNITS}/vmguard-metrics.service.d/lab.conf", lines.encode())
    node.systemctl("daemon-reload")
    node.systemctl("start vmguard-metrics.service", 30)
    log = "journalctl --no-pager -o cat -u vmguard-metrics.service"
    until(
        lambda: "vmguard_up 1" in node.host.run(f"cat {COLLECTOR}/*", check=False).stdout,
        lambda: node.host.run(log, 20, check=False).stdout,
        90,
    )
    assert 'vm="web"' in node.host.run(f"cat {COLLECTOR}/vmguard.prom").stdout
    pid = node.systemctl("show vmguard-metrics.service --value -p MainPID")
    status = node.host.run(f"cat /proc/{pid}/status").stdout
    assert "CapBnd:\t0000000000000000" in status
    own = int(node.host.run("id -u vmguard-metrics").stdout)
    assert f"Uid:\t{own}\t{own}\t{own}\t{own}" in status
    assert own != 0
    file = node.host.run(f"stat -c '%u %a' {COLLECTOR}/vmguard.prom").stdout.split()
    assert file == [str(own), "644"], "node_exporter's user can read it"
    as_nobody = ["setpriv", "--reuid", "nobody", "--clear-groups"]
    assert "Permission denied" in node.host.run([*as_nobody, "touch", f"{COLLECTOR}/../x"], check=False).stderr

    node.systemctl("stop vmguard.service vmguard.socket", 60)
    until(
        lambda: "vmguard_up 0" in node.host.run(f"cat {COLLECTOR}/vmguard.prom").stdout,
        lambda: node.host.run(log, 20, check=False).stdout,
        90,
    )
    assert 'vmguard_vm_frozen{vm="web"' in node.host.run(f"cat {COLLECTOR}/vmguard.prom").stdout
    assert node.systemctl("is-active vmguard.service || true") == "inactive", "a question starts nothing"
    node.systemctl("start vmguard.socket vmguard.service", 60)
    node.systemctl("stop vmguard-metrics.service")
    vm.kill()
    node.wait_released(guest, 30)


def set_limit(node: Units, limit: str) -> None:
    node.host.run(f"systemctl set-property --runtime vmguard.service {limit}", 60)


def served_or_refused_in_words(node: Units, guest: Guest) -> None:
    """Start a VM while the daemon has reached a limit. It has no QEMU, so its claim ends at once."""
    tried = node.claim(guest, 60)
    print(tried.returncode, tried.stderr)
    assert tried.returncode == 0 or tried.stderr.startswith("vmguard: "), tried.stderr
    assert "the storage" not in tried.stderr, "the server has answered all the time"
    node.hook(guest, "release", 60)


def test_at_the_limits_of_its_unit_no_vm_ends_and_no_lock_is_lost(place: Place) -> None:
    """TasksMax= and MemoryMax= are reached while a VM runs; a start is served, or refused in words.

    As long as no daemon can start nobody watches: if the lease ends, the next one freezes the VM until it has asked.
    """
    node, old, new = place.node, Guest("old"), Guest("new")
    for guest in (old, new):
        node.make_disks(guest)
    vm = node.start_vm(old)

    set_limit(node, f"TasksMax={node.show('TasksCurrent')}")
    served_or_refused_in_words(node, new)
    vm.wait_beats(2)
    set_limit(node, "TasksMax=infinity")

    before, memory = node.pid(), int(node.show("MemoryCurrent"))
    set_limit(node, f"MemoryMax={memory // 2}")
    served_or_refused_in_words(node, new)
    vm.wait_beats(2)
    until(lambda: int(node.show("NRestarts")) > 0, node.log, 30)
    set_limit(node, "MemoryMax=infinity")

    node.wait_ready(before)
    found = node.wait_for(old, lambda found: not found["frozen"] and found["files"][0]["guard"] == "pinned")
    assert found["state"] == "running"
    vm.wait_beats(2)
    history = node.host.run("cat /run/vmguard/history.jsonl").stdout
    assert not [code for code in ("lock.lost", "vm.fence", "fence.done", "vm.gone") if f'"{code}"' in history]
    node.wait_released(new, 60)
    assert node.claim(new, 60).returncode == 0
    vm.kill()


#: a message by HTTP to a server in the same guest, resolved by name, as the daemon's child sends it
SEND = """
import http.server, threading
from vmguard.adapters.messages import sending
from vmguard.config.notify import Target, TargetType
from vmguard.core.notices.event import make
from vmguard.core.notices.message import compose
from vmguard.core.watchdog.events import Level
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_response(200)
        self.end_headers()
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
wanted = Target(type=TargetType.WEBHOOK, url=f"http://localhost:{server.server_port}/").as_json()
sending.confine()
assert sending.send(compose([make("", "x", Level.INFO, "x", {}, "")], "hyp-a"), wanted) == "200 OK"
"""


def test_a_message_leaves_the_daemons_sandbox(place: Place) -> None:
    status, said = place.in_sandbox(SEND)
    assert status == 0, said


def test_negative_control_a_sandbox_without_the_internet_keeps_it_in(place: Place) -> None:
    status, said = place.in_sandbox(SEND, more="RestrictAddressFamilies=\nRestrictAddressFamilies=AF_UNIX")
    assert status != 0
    assert "not supported" in said
