"""Writes the configuration as text: the shipped, commented file."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from vmguard.config.settings import TARGETS, VM_KEYS, Setting, sections, server_settings, settings

_WIDTH_COLUMNS = 79

_HEAD = """\
The configuration of vmguard, which guards the disks of VMs on NFSv4.

This file is /etc/vmguard/vmguard.yaml. It is complete: every setting is here, commented out, with its default. To \
change one, remove the # before it, and nothing else: what stays commented out follows the defaults of later versions.

Files /etc/vmguard/conf.d/*.yaml are read after this one, in the order of their names; the later value wins, key by \
key. All files must belong to root, and nobody else may write to them.

After a change: 'vmguard config check', then 'systemctl reload vmguard'. 'vmguard config show' says what is in force, \
and where it was set. A configuration with any mistake in it is not taken: the daemon keeps the last good one, \
also when it is restarted (/var/lib/vmguard/last-good.yaml), and says so.

Durations: 3s, 500ms, 2m, 1h30m; a number alone means seconds."""


def example() -> str:
    """Return the whole file config/vmguard.yaml."""
    lines = list(_comment(_HEAD, ""))
    rows = list(settings())
    for section, help in sections().items():
        lines += ["", "", *_comment(help, ""), f"{section}:"]
        blocks = [list(_setting(row)) for row in rows if row.section == section]
        lines += "\n\n".join("\n".join(block) for block in blocks).split("\n")
        if section == TARGETS[0]:
            lines += ["", *_comment(_TARGETS, "  "), *_TARGETS_EXAMPLE]
    lines += ["", "", *_comment(_VMS, ""), "vms:", "  #web:", "  #    on_lost: freeze", "  #    after_fence: off"]
    lines += ["", "", *_comment(SERVERS_HELP, ""), "servers:", "  #nas:"]
    for row in server_settings().values():
        lines += ["", *_server_row(row)]
    return "\n".join(lines) + "\n"


def introduction() -> str:
    """Return what the file is, where it lies, and how a change takes effect."""
    return _HEAD


def targets_help() -> str:
    """Return what a target is."""
    return _TARGETS


def vms_help() -> str:
    """Return what may be set for one VM alone."""
    return _VMS


def _server_row(row: Setting) -> Iterator[str]:
    default = row.kind.show(row.default)
    yield from _comment(f"{row.help}\nValue: {row.kind.describe()}. Default: {default}.", "  #    ")
    yield f"  #    {row.key}: {default}"


def _setting(row: Setting) -> Iterator[str]:
    default = row.kind.show(row.default)
    yield from _comment(row.help, "  ")
    yield from _comment(f"Value: {row.kind.describe()}. Default: {default}." + _RESTART * row.restart, "  ")
    yield f"  #{row.key}: {default}"


_VMS = (
    "What is set for one VM alone, by its name or uuid: any of "
    + ", ".join(f"{key}" if key == path[1] else f"{key} ({'.'.join(path)})" for key, path in VM_KEYS.items())
    + " as in section watch, or as in the key named behind it. Where both name and uuid are given, the uuid's entry "
    "wins."
)
_TARGETS = (
    "Who is told by a message: each target has a name of yours, and keys of section notify.targets in vmguard.yaml(5). "
    "Secrets are in files with mode 0600, or come from systemd (credential:NAME), never here. vmguard notify test "
    "sends a message."
)
_TARGETS_EXAMPLE = (
    "  targets:",
    "    #admins:",
    "    #    type: mail",
    "    #    to: admins@example.org",
    "    #    server: mail.example.org",
    "    #    user: vmguard",
    "    #    password_file: /etc/vmguard/secrets/mail",
    "    #pager:",
    "    #    type: webhook",
    "    #    level: error",
    "    #    url_file: /etc/vmguard/secrets/pager-url",
)
SERVERS_HELP = (
    "How the storage servers themselves can be asked: whether they are in grace and for how long, who holds a lock, "
    "whether they would forget their clients at the next reboot (vmguard storage). Each by its name as mounts have "
    "it (nas in nas:/vm), or by the mount point. Without an entry everything works as far as this host alone can know. "
    "What a server says explains, plans and speeds up; it never decides about a VM."
)
_RESTART = " A change needs a restart of the daemon."


def _comment(text: str, indent: str) -> Iterator[str]:
    prefix = f"{indent}# "
    for paragraph in text.split("\n"):
        lines = textwrap.wrap(paragraph, _WIDTH_COLUMNS - len(prefix), break_on_hyphens=False, break_long_words=False)
        yield from ((prefix + line).rstrip() for line in lines or [""])
