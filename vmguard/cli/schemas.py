"""The JSON that each command prints with --json: for the manual page, and for tests that compare the two.

A shape is the name of a type (``text``, ``number``, ``yes/no``, ``any``, perhaps followed by ``or null``), a list of
one shape, or an object: its keys with their shapes, or ``NAME`` for any key. A later version may add keys; the present
ones keep their meaning as long as ``schema`` is the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

T = "text"
N = "number"
B = "yes/no"

Shape: TypeAlias = "str | Sequence[Shape] | Mapping[str, Shape]"
Fields: TypeAlias = Mapping[str, Shape]

_OWNER: Fields = {
    "epoch": N,
    "host": T,
    "machine": T,
    "boot": T,
    "hypervisor": T,
    "vm": T,
    "uuid": T,
    "path": T,
    "claimed": T,
    "released": T,
    "version": T,
    "ended": T,
}
_DISK: Fields = {
    "path": T,
    "role": T,
    "mode": T,
    "verdict": T,
    "text": T,
    "todo": T,
    "ranges": T,
    "guard": T,
    "owner": _OWNER,
}
_UNGUARDED: Shape = [{"source": T, "reason": T}]
_FILE: Fields = {
    "path": T,
    "mode": T,
    "role": T,
    "source": T,
    "device": N,
    "inode": N,
    "ranges": T,
    "guard": T,
    "through": T,
    "weaker": T,
    "epoch": N,
}
_VM: Fields = {
    "name": T,
    "uuid": T,
    "hypervisor": T,
    "state": T,
    "why": T,
    "claimed": T,
    "pid": "number or null",
    "frozen": B,
    "fencing": T,
}
_MOUNT: Fields = {
    "mount": T,
    "source": T,
    "phase": T,
    "probes": T,
    "lease": N,
    "lease_age": "number or null",
    "freeze_in": "number or null",
    "locks": N,
    "unsure": N,
    "lost": N,
}
_FENCED = {"at": T, "name": T, "uuid": T}
_DISARMED: Fields = {"seconds": N, "since": T, "reason": T, "by": T}
_EVENT: Fields = {"at": T, "boottime": N, "level": T, "code": T, "text": T, "fields": {"NAME": T}}
_TARGET: Fields = {
    "target": T,
    "type": T,
    "waiting": N,
    "messages": N,
    "dropped": N,
    "problem": T,
    "failing_since": T,
    "answer": T,
    "tried": T,
    "delivered": T,
    "retry_in": N,
}
_STEPS_DONE: Fields = {
    "schema": N,
    "command": T,
    "subject": T,
    "dry_run": B,
    "status": T,
    "steps": [{"step": T, "state": T, "text": T}],
}

_HOLDER: Fields = {"host": T, "address": T, "state": T, "idle": "number or null"}
_HEALTH: Fields = {"severity": T, "headline": T, "do_now": T}
_SECONDS = "number or null"
_YES = "yes/no or null"
_SERVER_FACTS: Fields = {
    "kind": T,
    "version": T,
    "scope": T,
    "up": _YES,
    "lease": _SECONDS,
    "grace": _SECONDS,
    "lockd_grace": _SECONDS,
    "in_grace": _YES,
    "lockd_in_grace": _YES,
    "grace_left": _SECONDS,
    "may_reclaim": [T],
    "missing": [T],
    "recorded": [T],
    "this_host_on_record": _YES,
    "clients": [{**_HOLDER, "name": T}],
    "unknown": [T],
}
_STORAGE: Fields = {"schema": N, "status": T, "health": _HEALTH}
_OUTLOOK: Fields = {
    "mount": T,
    "server": T,
    "lease": N,
    "vms": [T],
    "frozen": T,
    "freeze_from": _SECONDS,
    "freeze_until": _SECONDS,
    "verdict_from": _SECONDS,
    "verdict_until": _SECONDS,
    "back_by": _SECONDS,
    "new_locks_at": _SECONDS,
}
_SERVER_LOCK: Fields = {
    "server": T,
    **_HOLDER,
    "client": T,
    "file": T,
    "inode": N,
    "device": T,
    "vm": T,
    "path": T,
    "wrong": T,
}

#: command, with its action if it has any -> what it prints; null may stand for an object
SCHEMAS: dict[str, Fields] = {
    "check": {
        "schema": N,
        "status": T,
        "name": T,
        "uuid": T,
        "hypervisor": T,
        "state": T,
        "summary": T,
        "daemon": T,
        "disarmed": T,
        "fenced": [_FENCED],
        "watch": "any",
        "disks": [_DISK],
        "unguarded": _UNGUARDED,
    },
    "status": {
        "schema": N,
        "daemon": T,
        "disarmed": _DISARMED,
        "config_problems": [T],
        "fenced": [_FENCED],
        "mounts": [_MOUNT],
        "vms": [{**_VM, "watch": "any", "files": [_FILE]}],
    },
    "history": {"schema": N, "incidents": [[_EVENT]]},
    "history --acknowledge": {"schema": N, "acknowledged": [_FENCED]},
    "verify-journal": {"schema": N, "status": T, "lines": N, "faults": [{"line": N, "code": T, "text": T}]},
    "timing": {
        "schema": N,
        "mounts": [
            {
                "mount": T,
                "lease": N,
                "probes": T,
                "grace": "number or null",
                "new_locks_after": "number or null",
                "outage": [["any"]],
                "recovery": [["any"]],
            }
        ],
    },
    "maintenance": {"schema": N, "disarmed": _DISARMED, "survives_restart": B},
    "arm": {"schema": N, "disarmed": _DISARMED, "was": _DISARMED},
    "who": {
        "schema": N,
        "status": T,
        **_DISK,
        "vms": [_VM],
        "processes": [{"pid": N, "name": T, "writable": B}],
        "daemon": T,
        "storage": {"server": T, **_HOLDER, "text": T, "contradiction": T},
    },
    "adopt": {
        "schema": N,
        "status": T,
        "dry_run": B,
        "vms": [{"name": T, "uuid": T, "pid": "number or null", "result": T, "why": T, "status": T, "files": [_FILE]}],
    },
    "doctor": {
        "schema": N,
        "status": T,
        "findings": [{"check": T, "subject": T, "level": T, "text": T, "why": T, "mend": T, "muted": T}],
    },
    "storage status": {
        **_STORAGE,
        "servers": [{"name": T, "mounts": [T], "problem": T, "facts": _SERVER_FACTS}],
    },
    "storage locks": {**_STORAGE, "locks": [_SERVER_LOCK]},
    "storage doctor": {
        **_STORAGE,
        "findings": [{"check": T, "subject": T, "level": T, "text": T, "why": T, "mend": T, "muted": T}],
    },
    "storage plan": {**_STORAGE, "mounts": [_OUTLOOK]},
    "storage watch": {
        "schema": N,
        "status": T,
        "seconds": N,
        "stood": [{"vm": T, "longest": N}],
        "lost": [T],
    },
    "storage explain": {
        **_STORAGE,
        "servers": [
            {"name": T, "problem": T, "lines": [{"at": T, "text": T, "meaning": T}], "conclusions": [T]},
        ],
    },
    "storage release": _STEPS_DONE,
    "storage probe": {"schema": N, "program": T},
    "doctor --fix": _STEPS_DONE,
    "doctor --mute": {"schema": N, "check": T, "muted": T},
    "enable": _STEPS_DONE,
    "audit": {
        "schema": N,
        "status": T,
        "seen_from": T,
        "nodes": [T],
        "vms": [{"vmid": T, "node": T, "name": T, "enrolled": B}],
        "findings": [{"kind": T, "status": T, "vmid": T, "node": T, "storage": T, "text": T, "todo": T}],
    },
    "disable": _STEPS_DONE,
    "plan": {"files": [{"path": T, "mode": T, "role": T, "source": T}], "unguarded": _UNGUARDED},
    "config check": {"status": T, "files": [T], "problems": [{"file": T, "line": N, "key": T, "text": T}]},
    "config show": {
        "targets": {"NAME": {"NAME": "any"}},
        "settings": {"NAME": {"value": "any", "text": T, "default": "any", "set_in": T}},
        "vms": {"NAME": {"NAME": "any"}},
        "servers": {"NAME": {"NAME": "any"}},
    },
    "config example": {"example": T},
    "hook-script": {"schema": N, "hypervisor": T, "script": T},
    "metrics": {"schema": N, "metrics": [{"name": T, "kind": T, "help": T, "samples": [["any"]]}]},
    "notify test": {
        "schema": N,
        "status": T,
        "targets": [{"target": T, "type": T, "ok": B, "answer": T, "hint": T}],
    },
    "notify status": {"schema": N, "status": T, "targets": [_TARGET]},
    "notify watch": {"schema": N, "status": T, "daemon": T},
    "report": {"schema": N, "file": T, "parts": {"NAME": N}},
    "man": {"schema": N, "page": T, "section": N, "roff": T},
    "completion bash": {"schema": N, "bash": T},
    "completion zsh": {"schema": N, "zsh": T},
    "completion fish": {"schema": N, "fish": T},
    "completion names": {"schema": N, "names": [T]},
}
#: what any command prints with --json when it fails
ERROR: Fields = {"error": {"message": T, "hint": T, "exit_code": N}}

_TYPES: dict[str, tuple[type, ...]] = {T: (str,), N: (int, float), B: (bool,)}


def drawn(shape: Fields, indent: int = 0) -> Iterator[str]:
    """Draw the shape of an object for people, line by line."""
    space = "  " * indent
    for key, value in shape.items():
        inner, opening, closing = value, "", ""
        while not isinstance(inner, str | Mapping):
            inner, opening, closing = inner[0], opening + "[", closing + "]"
        if isinstance(inner, Mapping):
            yield f"{space}{key}: {opening}{{"
            yield from drawn(inner, indent + 1)
            yield f"{space}}}{closing}"
        else:
            yield f"{space}{key}: {opening}{inner}{closing}"


def wrong(value: object, shape: Shape, where: str = "") -> list[str]:
    """Return where a value does not have a shape; empty when it does."""
    if isinstance(shape, str):
        return _wrong_value(value, shape, where)
    if not isinstance(shape, Mapping):
        if not isinstance(value, list):
            return [f"{where}: {type(value).__name__} is no list"]
        return [text for number, item in enumerate(value) for text in wrong(item, shape[0], f"{where}[{number}]")]
    if value is None:
        return []
    if not isinstance(value, dict):
        return [f"{where}: {type(value).__name__} is no object"]
    if "NAME" in shape:
        return [text for key, item in value.items() for text in wrong(item, shape["NAME"], f"{where}.{key}")]
    missing = [f"{where}.{key}: missing" for key in shape if key not in value]
    present = [key for key in shape if key in value]
    return missing + [text for key in present for text in wrong(value[key], shape[key], f"{where}.{key}")]


def _wrong_value(value: object, shape: str, where: str) -> list[str]:
    if shape == "any" or (value is None and shape.endswith(" or null")):
        return []
    types = _TYPES[shape.removesuffix(" or null")]
    fits = isinstance(value, types) and (types == (bool,) or not isinstance(value, bool))
    return [] if fits else [f"{where}: {value!r} is no {shape}"]
