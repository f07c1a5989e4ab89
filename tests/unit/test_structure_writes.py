"""Files are written, and get their modes, in one module: by a name, root would write wherever a link leads."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.support.source_tree import MODULES

#: the module that may do all of it
WRITER = "vmguard.adapters.linux.atomic_file"
#: module -> what it does besides, and why that is no such write
ALLOWED = {
    # the kernel's own files: nobody else can put anything there
    "vmguard.adapters.linux.oom_and_scheduling": {"open for writing"},
    "vmguard.adapters.storage.nfs_client_id": {"open for writing"},
    # beside disks, through a descriptor of the folder, which is opened without following a link; a file is shared by
    # hosts and grows by slots, so it is not replaced
    "vmguard.adapters.storage.owner_record": {"os.symlink", "os.rename", "O_CREAT"},
    # on the share: O_EXCL and O_NOFOLLOW, removed after the attempt
    "vmguard.doctor.scratch": {"O_CREAT"},
    # a second name of a disk, for a moment, by the descriptor of its folder
    "vmguard.adapters.storage.delegation": {"os.link", "os.rename", "os.symlink"},
    # an anonymous file in memory
    "vmguard.adapters.linux.keeper": {"open for writing"},
    # in the daemon's own folder: O_EXCL decides which caller comes first; and a pipe by its descriptor
    "vmguard.hook.prefork": {"O_CREAT", "open for writing"},
}

_CALLS = re.compile(
    r"^(os\.(chmod|lchmod|chown|lchown|truncate|rename|renames|replace|symlink|link|mkstemp)|shutil\.\w+|tempfile\.\w+)$"
)
#: it writes through the one module
OURS = {"statefile.write_text"}
_METHODS = {"write_text", "write_bytes", "touch", "hardlink_to", "symlink_to"}


def writes(source: str) -> Iterator[str]:
    """Yield what in a module's source writes a file by its name, or changes one."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            if _CALLS.match(text):
                yield text
            elif text in ("os.O_CREAT", "os.O_TRUNC") or (node.attr in _METHODS and text not in OURS):
                yield node.attr
        elif isinstance(node, ast.ImportFrom) and node.module in ("os", "shutil", "tempfile", "pathlib"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("open", "io.open") and _mode(node):
            yield "open for writing"


def _mode(call: ast.Call) -> bool:
    """Return whether a call of open() may write: its mode says so, or is not known."""
    given = [*call.args[1:2], *(word.value for word in call.keywords if word.arg == "mode")]
    return any(not isinstance(mode, ast.Constant) or set(str(mode.value)) & set("wax+") for mode in given)


@pytest.mark.parametrize("module", sorted(set(MODULES) - {WRITER}))
def test_only_one_module_writes_files_by_name(module: str) -> None:
    assert set(writes(MODULES[module].read_text())) <= ALLOWED.get(module, set())


def test_nothing_is_allowed_that_is_not_done() -> None:
    done = {module: set(writes(MODULES[module].read_text())) for module in ALLOWED}
    assert done == ALLOWED


@pytest.mark.parametrize(
    "source",
    [
        "open(path, 'w')",
        "open(path, mode='ab')",
        "open(path, how)",
        "os.open(path, os.O_WRONLY | os.O_CREAT)",
        "os.open(path, os.O_WRONLY | os.O_TRUNC)",
        "os.chmod(path, 0o644)",
        "call = os.replace",
        "from os import rename",
        "Path(path).write_text('x')",
        "shutil.copy(a, b)",
        "tempfile.mkstemp()",
    ],
)
def test_negative_control_a_write_is_seen(source: str) -> None:
    assert len(list(writes(source))) == 1


@pytest.mark.parametrize(
    "source", ["open(path)", "open(path, 'rb')", "os.fchmod(fd, 0o644)", "os.open(path, os.O_RDWR)"]
)
def test_control_what_only_reads_is_let_pass(source: str) -> None:
    assert list(writes(source)) == []
