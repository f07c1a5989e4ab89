"""What tests may not replace behind the product's back: private names, clocks, the loop, and what reads /proc.

Each of these has a seam: an argument, an object of calls, a real file or a real process. A patch is left where it is
the honest tool, such as a thread that cannot be started.
"""

from __future__ import annotations

import ast

import pytest

from tests.support.source_tree import TEST_MODULES

#: modules and objects that are never patched: the clocks, the loop, /proc
_NEVER = {"time", "clock", "proc", "may_block", "loop", "Loop"}
#: the one fixture that shows a test another mount table
_ALLOWED = {("tests.unit.test_mount_kinds", "mounts.mounts")}


def patches(source: str) -> list[str]:
    """Return what a module patches by ``setattr`` of a fixture: ``object.name``."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "setattr"):
            continue
        target, *rest = node.args
        if isinstance(target, ast.Constant):
            found.append(str(target.value))
        else:
            found.append(f"{ast.unparse(target)}.{ast.literal_eval(rest[0])}")
    return found


def forbidden(patch: str) -> bool:
    """Return whether a patch is of a private name, or of what has a seam of its own."""
    *owners, name = patch.split(".")
    return name.startswith("_") or bool(_NEVER & {*owners}) or patch.endswith("mounts.mounts")


@pytest.mark.parametrize("module", TEST_MODULES)
def test_nothing_is_patched_that_has_a_seam(module: str) -> None:
    found = [patch for patch in patches(TEST_MODULES[module].read_text()) if forbidden(patch)]
    assert [patch for patch in found if (module, patch) not in _ALLOWED] == []


@pytest.mark.parametrize(
    ("call", "is_forbidden"),
    [
        ('setattr(files, "_open", f)', True),
        ('setattr(time, "sleep", f)', True),
        ('setattr(world.loop, "now", f)', True),
        ('setattr("vmguard.adapters.linux.clock.boottime", f)', True),
        ('setattr(proc, "program", f)', True),
        ('setattr(mounts, "mounts", f)', True),
        ('setattr(threading.Thread, "start", f)', False),
        ('setattr("sys.stdin", f)', False),
    ],
)
def test_negative_control_a_forbidden_patch_is_seen(call: str, is_forbidden: bool) -> None:
    assert [forbidden(patch) for patch in patches(f"monkeypatch.{call}")] == [is_forbidden]
