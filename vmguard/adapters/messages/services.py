"""apprise, which knows a hundred services by a URL each, and Proxmox VE's own notification system.

apprise is an optional package. Its warnings name URLs and tokens: they are not passed on, only which service failed.

Proxmox VE 8.2 and later has ``PVE::Notify::notify`` (libpve-notify-perl), by which its own backups and replications
tell. It has no command and no API for it, so a line of Perl calls it. The texts come from templates of a name
(proxmox-notify, context/pve.rs: /usr/share/pve-manager/templates/default), which the deb of vmguard brings. What fails
there (no template, a broken notifications.cfg) dies, and is told; whether each of its targets then delivers is
Proxmox's own business, and in its log. Not chosen: proxmox-mail-forward, which has no severity and never fails.
"""

from __future__ import annotations

import json
import logging
import site
from typing import Any

from vmguard.adapters.linux import programs
from vmguard.core.notices.message import Message
from vmguard.core.watchdog.events import Level
from vmguard.errors import VmguardError

_APPRISE_TYPES = {Level.ERROR: "failure", Level.WARNING: "warning", Level.INFO: "info"}
_PVE_SEVERITY = {Level.ERROR: "error", Level.WARNING: "warning", Level.INFO: "notice"}
PERL = "/usr/bin/perl"
_CALL = """
use strict; use warnings; use JSON::PP; use PVE::Notify;
my $m = decode_json(do { local $/; <STDIN> });
my $common = PVE::Notify->can('common_template_data');
my $data = { ($common ? %{ $common->() } : ()), %{ $m->{data} } };
PVE::Notify::notify($m->{severity}, 'vmguard', $data, $m->{fields});
"""


def by_apprise(message: Message, urls: str, log: logging.Logger | None = None) -> str:
    """Send by each URL, a line each; return how many took it. Raises VmguardError."""
    apprise = _apprise()
    known = [line for line in map(str.strip, urls.split("\n")) if line and not line.startswith("#")]
    (log or logging.getLogger("apprise")).disabled = True  # it writes URLs, with all that is secret in them
    failed = []
    for number, url in enumerate(known, 1):
        service = apprise.Apprise()
        if not service.add(url):
            failed.append(f"line {number} is no URL that apprise knows")
        elif not service.notify(
            title=message.subject, body=message.text, notify_type=_APPRISE_TYPES[message.level], body_format="text"
        ):
            failed.append(f"{url.partition(':')[0][:20]}:// (line {number}) did not take it")
    if not known:
        raise VmguardError("there is no URL in the file")
    if failed:
        raise VmguardError("; ".join(failed))
    return f"{len(known)} of {len(known)} services have taken it"


def apprise_missing() -> str:
    """Return why there is no apprise, and what to do; empty where there is."""
    try:
        _apprise()
    except VmguardError as problem:
        return f"{problem.message}: {problem.hint}"
    return ""


def _apprise() -> Any:
    """Import apprise. A job starts without the folders of installed packages: they are added, root's alone."""
    try:
        import apprise
    except ImportError:
        site.main()
        try:
            import apprise
        except ImportError:
            text = "a target of type apprise needs the Python package apprise, which is not installed"
            raise VmguardError(text, "apt install python3-apprise, or pip install apprise") from None
    return apprise


def by_proxmox(message: Message, seconds: float, perl: tuple[str, ...] = (PERL,)) -> str:
    """Hand a message to Proxmox VE's notification system; return what became of it. Raises OSError, VmguardError."""
    order = {
        "severity": _PVE_SEVERITY[message.level],
        "data": {"subject": message.subject, "text": message.text},
        "fields": {"type": "vmguard", "hostname": message.host.partition(".")[0]},
    }
    try:
        done = programs.run([*perl, "-e", _CALL], seconds, json.dumps(order).encode(), mixed=True)
    except FileNotFoundError:
        raise VmguardError(f"this host has no {perl[0]}, and so no notification system of Proxmox VE") from None
    if done.status:
        said = done.text.strip()
        if "Can't locate PVE/Notify.pm" in said:
            raise VmguardError("this host has no notification system of Proxmox VE", "Proxmox VE 8.2 and later has one")
        raise VmguardError(f"Proxmox's notification system refused it: {said[:200]}")
    return "Proxmox's notification system has taken it"
