"""The states of VMs and of guarded files have one setter each: nothing else assigns them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmguard.core.locks.claim_states import MOVES, State
from vmguard.core.locks.file_guard import FileGuard
from vmguard.core.locks.plan import DISK, EXCLUSIVE
from vmguard.daemon.registry.guarded_file import GuardedFile
from vmguard.daemon.registry.guarded_vm import GuardedVm

PACKAGE = Path(__file__).resolve().parents[2] / "vmguard"
#: attribute: the class and its methods that may assign it
SETTERS: dict[str, tuple[str, set[str]]] = {
    "state": ("GuardedVm", {"move"}),
    "guard": ("GuardedFile", {"__post_init__", "from_json", "from_claim"}),
    **{name: ("FileGuard", set(vars(FileGuard))) for name in FileGuard.__slots__ if name != "closing"},
    "_state": ("FileGuard", {"__init__", "move", "from_json"}),
    "_pin": ("FileGuard", {"__init__", "move"}),
    "_rival": ("FileGuard", {"__init__", "move", "from_json"}),
    "_descriptor": ("FileGuard", {"__init__", "move"}),
}
#: general words that other classes may have for their own attributes
OWN = {"_report", "_kind", "_state", "_use", "_retry"}


def assigned(node: ast.AST) -> Iterator[ast.Attribute]:
    """Every attribute that a statement assigns or deletes."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store | ast.Del):
            yield inner


def wrong_setters(source: str) -> list[str]:
    tree = ast.parse(source)
    allowed: set[int] = set()
    for one in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        for method in (node for node in one.body if isinstance(node, ast.FunctionDef)):
            for target in assigned(method):
                name, methods = SETTERS.get(target.attr, ("", set()))
                is_own = isinstance(target.value, ast.Name) and target.value.id == "self" and target.attr in OWN
                if (one.name == name and method.name in methods) or (one.name != name and is_own):
                    allowed.add(id(target))
    found = [target for target in assigned(tree) if target.attr in SETTERS and id(target) not in allowed]
    return [f"line {target.lineno}: {ast.unparse(target)}" for target in found]


PATHS = [*sorted((PACKAGE / "daemon").rglob("*.py")), *sorted((PACKAGE / "core" / "locks").rglob("*.py"))]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_sets_a_state_but_its_setter(path: Path) -> None:
    assert wrong_setters(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "def resume(vm):\n    vm.state = State.ENDED",
        "class ClaimLifecycle:\n    def resume(self, vm):\n        vm.state = State.ENDED",
        "class GuardedVm:\n    def hurry(self):\n        self.state = State.ENDED",
        "file.guard._pin = None",
        "file.guard._state, x = GuardState.LOST, 1",
        "class FileGuard:\n    def lose(self):\n        self._descriptor = None",
        "file.guard = FileGuard(Origin.FOUND)",
    ],
)
def test_negative_control_another_setter_is_seen(source: str) -> None:
    assert len(wrong_setters(source)) == 1


@pytest.mark.parametrize("old", State)
@pytest.mark.parametrize("new", State)
def test_a_vm_makes_the_moves_of_its_table_and_no_others(old: State, new: State) -> None:
    vm = GuardedVm("libvirt", "web", "1", state=old)
    if new is old or new in MOVES[old]:
        vm.move(new, "a test wants it")
        assert vm.state is new
    else:
        with pytest.raises(ValueError, match="cannot go"):
            vm.move(new, "a test wants it")
        assert vm.state is old


def test_a_release_that_its_daemon_did_not_finish_asks_for_all_the_proof_again() -> None:
    assert MOVES[State.RELEASING] == {State.ENDED}


def test_a_guards_moves_are_logged_with_its_path(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "vmguard.registry")
    file = GuardedFile("/srv/vm/web.raw", EXCLUSIVE, DISK, "", (1, 2), [(0, 0)])
    file.guard.received(3)
    again = GuardedFile.from_json(file.as_json())
    again.guard.taken_over(None)
    assert [record.getMessage() for record in caplog.records] == [
        "/srv/vm/web.raw: pending => held: handed over by its hook",
        "/srv/vm/web.raw: pending => lost: its descriptor was lost with the earlier daemon",
    ]
