"""What the hook's modules import: each of the banned modules costs milliseconds that the hook does not have."""

from __future__ import annotations

import os
import subprocess
import sys


def test_the_hook_can_afford_these_modules() -> None:
    """Each of these costs the hook between 2 and 15 ms of the few it has."""
    banned = {"typing", "dataclasses", "enum", "re", "json", "collections", "pathlib", "subprocess", "socket"}
    banned |= {"contextlib", "abc", "functools"}
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    code = f"""import sys
before = set(sys.modules)
sys.path.insert(0, {root!r})
import vmguard.adapters.storage.backing_chain, vmguard.adapters.storage.libvirt_pools, vmguard.core.sources.image_name
print(' '.join(name for name in {banned!r} if name in sys.modules and name not in before))"""
    said = subprocess.run([sys.executable, "-IS", "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == []


def test_the_daemon_loads_no_library_for_what_its_children_send() -> None:
    """They would take a quarter of the memory that it may have."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    code = "import sys; sys.path.insert(0, sys.argv[1]); import vmguard.daemon.main; print(*sys.modules)"
    words = [sys.executable, "-c", code, root]
    loaded = set(subprocess.run(words, capture_output=True, text=True, check=True).stdout.split())
    assert "vmguard.daemon.report.notices" in loaded
    assert not loaded & {"smtplib", "ssl", "email", "http.client", "apprise"}
