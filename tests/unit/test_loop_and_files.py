"""What of the daemon touches a file, where, and why that cannot hang the loop: a list to be read at each change of it.

A path of a share, or of a FUSE file system, is for a thread or a child. What happens while a share does not answer is
in tests/process/test_dead_share.py.
"""

from __future__ import annotations

import ast
import re

import pytest

from tests.support.source_tree import MODULES

_RUN = "files of the run directory, which is in memory"
_THREAD = "in a storage's thread"
_OWN = "pipes, pidfds and the like"
#: module of the daemon -> the calls in it, and why they may be there
TOUCHES: dict[str, tuple[set[str], str]] = {
    "vmguard.daemon.adopt.other_processes": ({"os.listdir", "os.stat"}, "the hypervisors' pid files in /run"),
    "vmguard.daemon.api.hook_prefork": ({"os.close"}, _OWN),
    "vmguard.daemon.api.server": ({"os.close"}, _OWN),
    "vmguard.daemon.claim.fdstore_recovery": ({"os.readlink"}, "a link of our own in /proc: the kernel asks nobody"),
    "vmguard.daemon.claim.migration_target": ({"ofd.close"}, _THREAD),
    "vmguard.daemon.claim.processes": ({"os.close"}, _OWN),
    "vmguard.daemon.claim.proxmox_start_tasks": ({"os.close"}, _OWN),
    "vmguard.daemon.fence.evidence": ({"os.listdir"}, "/proc/PID/task"),
    "vmguard.daemon.fence.fencer": ({"os.listdir", "os.makedirs"}, _RUN),
    "vmguard.daemon.fence.signals": ({"os.listdir"}, "/proc/PID/task"),
    "vmguard.daemon.main": ({"os.chdir", "os.makedirs"}, _RUN),
    "vmguard.daemon.pin.lock_transfer": ({"ofd.close", "os.fstat", "os.open"}, _THREAD),
    "vmguard.daemon.registry.store": ({"os.listdir", "os.makedirs"}, _RUN),
    "vmguard.daemon.release.releaser": ({"os.close"}, f"a pidfd; {_THREAD}"),
    "vmguard.daemon.report.history": ({"open", "os.stat"}, _RUN),
    "vmguard.daemon.report.notify_command": ({"os.close"}, _OWN),
    "vmguard.daemon.runtime.loop": ({"os.close", "os.read", "os.write"}, _OWN),
    "vmguard.daemon.runtime.subprocesses": ({"os.close", "os.read"}, _OWN),
    "vmguard.daemon.scan.libvirt_events": ({"os.close", "os.read"}, _OWN),
    "vmguard.daemon.scan.open_events": ({"ofd.close"}, _THREAD),
    "vmguard.daemon.settings": ({"os.path.exists"}, "libvirt's sockets in /run"),
    "vmguard.daemon.watch.probe_threads": ({"ofd.close"}, "in a thread of its own"),
}
#: the daemon's ways to files on a share (adapters/storage)
WAYS = {
    "vmguard.daemon.pin.lock_transfer": _THREAD,
    "vmguard.daemon.scan.replaced_disks": _THREAD,
    "vmguard.daemon.watch.probe_threads": "in a thread of its own",
    "vmguard.daemon.watch.probes": "only puts a path together",
}
_PATH_CALLS = re.compile(
    r"^(os\.path\.(exists|lexists|isdir|isfile|islink|ismount|realpath|get\w+|samefile)|ofd\.close)$"
)
_OS_CALLS = re.compile(
    r"^os\.(open|close|read|write|p?read\w*|p?write\w*|lseek|fsync|fdatasync|ftruncate|truncate|stat|lstat|fstat|statvfs|"
    r"fstatvfs|access|listdir|scandir|walk|readlink|unlink|remove|rename|replace|link|symlink|mkdir|makedirs|rmdir|mkfifo|"
    r"chmod|chown|lchown|utime|chdir|\w*xattr)$"
)


def touches(source: str) -> set[str]:
    """Return the calls of a module that touch a file, or name one that does."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            found |= {text} if _PATH_CALLS.match(text) or _OS_CALLS.match(text) else set()
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open":
            found.add("open")
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [str(getattr(node, "module", ""))]
            found |= {name for name in names if name in ("pathlib", "glob", "shutil")}
    return found


def ways(source: str) -> bool:
    return "vmguard.adapters.storage" in source


DAEMON = {name: path for name, path in MODULES.items() if name.startswith("vmguard.daemon")}


def test_whatever_of_the_daemon_touches_a_file_is_listed_with_its_reason() -> None:
    found = {name: touches(path.read_text()) for name, path in DAEMON.items()}
    assert {name: calls for name, calls in found.items() if calls} == {name: row[0] for name, row in TOUCHES.items()}


def test_so_are_its_ways_to_a_share() -> None:
    assert {name for name, path in DAEMON.items() if ways(path.read_text())} == set(WAYS)


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.stat(path)",
        "import os\ndef f():\n    return functools.partial(os.close, fd)",
        "import os\nos.path.realpath(path)",
        "from vmguard.adapters.linux import ofd\nofd.close(fd)",
        "with open(path) as stream: pass",
        "from pathlib import Path",
        "def f():\n    import shutil",
    ],
)
def test_negative_control_a_touch_is_seen(source: str) -> None:
    assert len(touches(source)) == 1
