"""Looks at what keeps messages about events from being delivered: secrets, libraries, the last attempts."""

from __future__ import annotations

from vmguard.adapters.messages import secret, services
from vmguard.adapters.messages.queue import Queue
from vmguard.config import SECRET_KEYS, Config, Target
from vmguard.errors import BadInput

_TEST = "vmguard notify test {}"


def look(config: Config, credentials: str = secret.CREDENTIALS) -> tuple[tuple[str, str, str], ...]:
    """Return the targets that get no messages: name, why, and what mends it."""
    found = []
    for name, target in config.notify_targets().items():
        told = _unreadable(target, credentials) or _without_library(target) or _failing(config, name)
        if told is not None:
            found.append((name, *told))
    return tuple(found)


def _unreadable(target: Target, credentials: str) -> tuple[str, str] | None:
    for key in SECRET_KEYS:
        where = getattr(target, key)
        try:
            if where:
                secret.read(where, credentials)
        except BadInput as problem:
            return f"{key}: {problem.message}", problem.hint or "vmguard config check"
    return None


def _without_library(target: Target) -> tuple[str, str] | None:
    missing = services.apprise_missing() if target.type == "apprise" else ""
    return (missing, "apt install python3-apprise") if missing else None


def _failing(config: Config, name: str) -> tuple[str, str] | None:
    queue = Queue(config.notify.queue_dir, name)
    state = queue.state()
    if not state.problem:
        return None
    text = f"no message was taken since {state.failing_since} ({queue.waiting()} wait): {state.problem}"
    return text, _TEST.format(name)
