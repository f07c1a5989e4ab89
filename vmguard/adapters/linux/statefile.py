"""The daemon's own JSON files, replaced atomically: either the old or the new one is there."""

from __future__ import annotations

import json
import logging
import os
from typing import Any

from vmguard.adapters.linux import atomic_file

log = logging.getLogger("vmguard.state")


def write(path: str, value: Any, sync: bool = True) -> None:
    """Replace a JSON file atomically. Raises OSError; the old one is untouched then."""
    # In one piece: a thousand VMs are frozen one by one, and json.dump takes four times as long.
    write_text(path, json.dumps(value, sort_keys=True) + "\n", sync)


def write_text(path: str, text: str, sync: bool = True) -> None:
    """Replace a file atomically. Raises OSError; the old one is untouched then."""
    atomic_file.write(path, text.encode(), sync=sync)


def read(path: str) -> dict[str, Any] | None:
    """Read the object in a JSON file; return None, with a log line, if it is unreadable, truncated or no object."""
    try:
        with open(path, encoding="utf-8") as stream:
            value = json.load(stream)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as problem:
        log.error("state file %s is not readable (%s); going on without it", path, problem)
        return None
    if isinstance(value, dict):
        return value
    log.error("state file %s does not hold an object; going on without it", path)
    return None


def remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as problem:
        log.error("cannot remove state file %s: %s", path, problem)
