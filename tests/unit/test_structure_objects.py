"""Who may change an object, and who may send a signal.

**Attributes.** A part of the daemon is built once, gets what it needs in its constructor, and nobody sets anything on
it afterwards. Plain data is different: the record of a VM or of a file is changed by whatever learns something about
it. A *record* is a class in vmguard/core or vmguard/daemon that says so by being a ``@dataclass`` that is not frozen;
every other class of these two is a *service*. ``x.y = z`` (also ``+=``, ``del``, ``for x.y in``, ``with ... as x.y``,
``setattr(x, ...)``) counts unless

* ``x`` is ``self`` or ``cls``; or
* the function says that ``x`` is a record: by its annotation or by making it (``x = GuardedVm(...)``); or
* nothing says what ``x`` is, and ``y`` is a field of some record.

Today's counts stand in LEFT, one line a module. They may only shrink: a count that is too high there fails, too.

**Signals.** Freeze, thaw and kill leave the daemon through one module, so that disarm, policy, history and the ladder
hold for each of them. Helper processes of the daemon's own are ended where they are started.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.support.source_tree import MODULES, part_of

# -- attributes set from outside ------------------------------------------------------------------------------------

#: module -> attributes of services that it still sets from outside
LEFT: dict[str, int] = {}


def _is_record(node: ast.ClassDef) -> bool:
    for decorator in node.decorator_list:
        name = ast.unparse(decorator)
        if name.startswith("dataclass") and "frozen=True" not in name:
            return True
    return False


def classes(sources: list[str]) -> tuple[dict[str, set[str]], set[str]]:
    """Return the fields of every record by its name, and the names of all services."""
    records: dict[str, set[str]] = {}
    services: set[str] = set()
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.ClassDef):
                continue
            if _is_record(node):
                fields = [item.target for item in node.body if isinstance(item, ast.AnnAssign)]
                records[node.name] = {field.id for field in fields if isinstance(field, ast.Name)}
            else:
                services.add(node.name)
    return records, services


def _stores(node: ast.AST) -> Iterator[tuple[ast.expr, str, int]]:
    """Yield (object, attribute, line) for each attribute that this node itself sets."""
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
        yield node.value, node.attr, node.lineno
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("setattr", "delattr", "object.__setattr__"):
        yield node.args[0], ast.unparse(node.args[1]).strip("'\""), node.lineno


def _known_types(function: ast.AST) -> dict[str, str]:
    """Return the classes of a function's variables, as far as annotations and constructor calls tell."""
    found: dict[str, str] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.arg) and node.annotation is not None:
            found[node.arg] = ast.unparse(node.annotation)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = ast.unparse(node.annotation)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    found[target.id] = ast.unparse(node.value.func)
    return {name: kind.removesuffix(" | None").strip("'\"").rpartition(".")[2] for name, kind in found.items()}


def set_from_outside(source: str, records: dict[str, set[str]], services: set[str]) -> list[str]:
    """Return each attribute that a module sets on a service other than its own ``self``."""
    fields = set().union(*records.values())
    found = []

    def look(node: ast.AST, types: dict[str, str]) -> None:
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            types = {**types, **_known_types(node)}
        for target, attribute, line in _stores(node):
            name = ast.unparse(target)
            kind = types.get(name, "")
            if name in ("self", "cls") or kind in records:
                continue
            if kind in services or attribute not in fields:
                found.append(f"line {line}: {name}.{attribute}")
        for child in ast.iter_child_nodes(node):
            look(child, types)

    look(ast.parse(source), {})
    return found


RECORDS, SERVICES = classes([MODULES[name].read_text() for name in MODULES if part_of(name) in ("core", "daemon")])
DAEMON = [name for name in MODULES if part_of(name) == "daemon"]


@pytest.mark.parametrize("module", DAEMON)
def test_nobody_sets_an_attribute_of_a_service_from_outside(module: str) -> None:
    found = set_from_outside(MODULES[module].read_text(), RECORDS, SERVICES)
    left = LEFT.get(module, 0)
    assert len(found) <= left, f"{module} sets attributes of other objects: {found}"
    assert len(found) == left, f"only {len(found)} are left in {module}: lower its number in LEFT"


def test_the_table_of_what_is_left_names_modules_that_exist() -> None:
    assert set(LEFT) <= set(DAEMON)


_NEGATIVE = (
    "class Pinner:\n    pass\n",
    "@dataclass\nclass GuardedVm:\n    state: int\n    busy: bool = False\n",
    "@dataclass(frozen=True)\nclass Pin:\n    fd: int\n",
)


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("def f(pinner: Pinner) -> None:\n    pinner.on_pinned = 1", 1),
        ("def f(pinner):\n    pinner.on_pinned = 1", 1),  # no record has such a field
        ("def f(pinner: Pinner) -> None:\n    pinner.busy = True", 1),  # a record has, but this is no record
        ("def f():\n    pinner = Pinner()\n    pinner.busy += 1", 1),
        ("class A:\n    def f(self):\n        self.pinner.timing, x = 1, 2", 1),
        ("def f(pinner):\n    setattr(pinner, 'on_pinned', 1)", 1),
        ("def f(pin: Pin):\n    pin.fd = 1\n    del pin.fd", 2),
        ("def f(pinner):\n    with x as pinner.held:\n        pass\n    for pinner.at in y:\n        pass", 2),
        ("class A:\n    def f(self):\n        self.on_pinned = 1\n        self.x += 1", 0),
        ("def f(vm: GuardedVm) -> None:\n    vm.state = 1\n    vm.busy = True", 0),
        ("def f():\n    for vm in all_of_them:\n        vm.state = 1", 0),
        ("def f():\n    vm = GuardedVm(1)\n    vm.anything = 1", 0),
    ],
)
def test_negative_control_what_is_set_from_outside_is_seen(source: str, seen: int) -> None:
    records, services = classes(list(_NEGATIVE))
    assert (set(records), services) == ({"GuardedVm"}, {"Pinner", "Pin"})
    assert len(set_from_outside(source, records, services)) == seen


# -- signals --------------------------------------------------------------------------------------------------------

#: the one module that sends signals to the processes of VMs
SENDER = "vmguard.daemon.fence.signals"
#: others that still do; to be removed from here as soon as they do no longer
STILL_SENDING: set[str] = set()
#: they end helper processes that they started themselves
OWN_CHILDREN = {
    "vmguard.daemon.runtime.subprocesses",
    "vmguard.daemon.report.notices",
    "vmguard.daemon.report.notify_command",
}

_TO_A_VM = {"pidfd.send", "signal.pidfd_send_signal"}
_TO_A_CHILD = {"os.kill", "os.killpg"}


def signals_sent(source: str) -> set[str]:
    """Return the ways in which a module sends signals: calls, references and imports of these functions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            found.add(ast.unparse(node))
        elif isinstance(node, ast.ImportFrom):
            module = str(node.module).rpartition(".")[2]
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found & (_TO_A_VM | _TO_A_CHILD)


def test_signals_leave_the_daemon_through_one_module() -> None:
    sent = {name: signals_sent(MODULES[name].read_text()) for name in DAEMON}
    assert {name for name, ways in sent.items() if ways & _TO_A_VM} == {SENDER} | STILL_SENDING
    assert {name for name, ways in sent.items() if ways & _TO_A_CHILD} == OWN_CHILDREN


@pytest.mark.parametrize(
    "source",
    [
        "from vmguard.adapters.linux import pidfd\npidfd.send(fd, signal.SIGSTOP)",
        "from vmguard.adapters.linux import pidfd\ncall = partial(pidfd.send, fd)",
        "from vmguard.adapters.linux.pidfd import send",
        "def f():\n    signal.pidfd_send_signal(fd, 9)",
        "from signal import pidfd_send_signal",
        "os.kill(pid, 9)",
        "from os import killpg",
    ],
)
def test_negative_control_a_signal_is_seen(source: str) -> None:
    assert len(signals_sent(source)) == 1
