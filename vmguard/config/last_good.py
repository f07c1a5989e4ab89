"""The last configuration without a mistake, kept on disk: it stays in force while the admin's files hold one.

A typing mistake must not unguard a host: the daemon may be restarted at any moment, by systemd or by an upgrade, and
would not come up again. Only what the admin has set is kept, so that everything else follows the defaults of the
version that reads it. Only for the files of /etc/vmguard: whoever names others with --config wants those.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from vmguard.config.loader import load
from vmguard.config.notify import target_keys
from vmguard.config.problems import BadConfig, Problem
from vmguard.config.settings import SERVERS, TARGETS, VMS, Config, sections, server_settings, settings, vm_settings

DIRECTORY = "/var/lib/vmguard"
PATH = os.path.join(DIRECTORY, "last-good.yaml")


def text(config: Config) -> str:
    """Return what was set, as a file that ``load`` reads."""
    lines = []
    for section in sections():
        chosen = [row for row in settings() if row.section == section and row.path in config.origins]
        inside = [f"  {row.key}: {row.kind.show(config.value(row))}" for row in chosen]
        inside += _targets(config) if section == TARGETS[0] else []
        lines += [f"{section}:"] * bool(inside) + inside
    rows = vm_settings()
    lines += [f"{VMS}:"] * bool(config.vms)
    for name, entry in config.vms.items():
        lines.append(f"  {json.dumps(name, ensure_ascii=False)}:")
        lines += [f"    {key}: {rows[key].kind.show(value)}" for key, value in entry.items()]
    keys = server_settings()
    lines += [f"{SERVERS}:"] * bool(config.servers)
    for name in config.servers:
        lines.append(f"  {json.dumps(name, ensure_ascii=False)}:")
        entry = config.server_entry(name)
        lines += [f"    {key}: {keys[key].kind.show(value)}" for key, value in entry.items()]
    return "".join(f"{line}\n" for line in lines)


def _targets(config: Config) -> list[str]:
    keys = target_keys()
    lines = [f"  {TARGETS[1]}:"] * bool(config.targets)
    for name, entry in config.targets.items():
        lines.append(f"    {json.dumps(name)}:")
        lines += [f"      {key}: {keys[key].kind.show(value)}" for key, value in entry.items()]
    return lines


def is_usable(paths: Sequence[str] | None = None, kept: str = PATH) -> bool:
    """Return whether a configuration is kept that stands in for these files."""
    try:
        return paths is None and bool(load([kept]))
    except BadConfig:
        return False


def load_or_kept(paths: Sequence[str] | None = None, kept: str = PATH) -> tuple[Config, tuple[Problem, ...]]:
    """Return the configuration and no problems, or the kept one and the problems of the files.

    Raises BadConfig, with the problems of the files, when they are named by ``paths`` or nothing usable is kept.
    """
    try:
        return load(paths), ()
    except BadConfig as bad:
        if not is_usable(paths, kept):
            raise
        return load([kept]), bad.problems
