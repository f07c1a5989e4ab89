"""Read a whole cluster through Proxmox's API, from anywhere: proxmoxer's https client and an API token.

What the token needs: the role PVEAuditor on ``/`` (VM.Audit for the configurations, Datastore.Audit for the storages,
Sys.Audit for the nodes). The list of VMs is filtered by rights, without a word: a token with too few sees fewer VMs.
To change a hookscript no token is enough, ever: that is for root, through ``qm`` on the node (qm.py).

proxmoxer's other client, ``local`` (pvesh), is not used: any word on stderr, a locale warning too, makes it fail, a
slow pvesh is left running behind its back, and what it could tell stands in /etc/pve.

All of it runs in a child with a deadline (bounded.py): the client's own timeout counts anew for each piece it gets.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vmguard.adapters.linux import bounded_child
from vmguard.errors import BadInput, StorageTimeout, VmguardError

_PORT = 8006
#: of a storage: what storage.cfg calls its header, and what the API adds
_NO_KEYS = ("storage", "type", "digest")
#: of a VM: free text, and what the API adds
_NO_OPTIONS = ("description", "digest", "pending")


@dataclass(frozen=True)
class Access:
    """The API's address, and the right to ask it."""

    host: str
    #: ``user@realm!name``
    token: str
    secret: str
    #: a file with the certificate of the cluster's authority (/etc/pve/pve-root-ca.pem); empty: this host's own
    ca_file: str = ""
    #: seconds for a single answer
    timeout: float = 5.0


@dataclass(frozen=True)
class Answer:
    """The cluster's configuration files, as the API tells of them."""

    nodes: list[str]
    storage_cfg: str
    #: (VMID, node, text of the configuration)
    vms: list[tuple[str, str, str]]
    #: (VMID, node, why its configuration could not be had)
    missing: list[tuple[str, str, str]]


def ask(access: Access, seconds: float) -> Answer:
    """Ask for everything within ``seconds``. Raises VmguardError."""
    _check(access)
    try:
        found = bounded_child.run(lambda: _ask(access), seconds, "asking the API")
    except StorageTimeout:
        raise VmguardError(
            f"the API of {access.host} did not tell all within {seconds:.0f} s", "give it more time: --timeout"
        ) from None
    vms, missing = ([(str(a), str(b), str(c)) for a, b, c in found[key]] for key in ("vms", "missing"))
    return Answer(found["nodes"], found["storage_cfg"], vms, missing)


def _check(access: Access) -> None:
    user, sign, name = access.token.partition("!")
    if not sign or "@" not in user or not name:
        raise BadInput(
            f"{access.token!r} is not the name of a token", "it reads user@realm!name, as in audit@pve!vmguard"
        )
    if not access.secret:
        raise BadInput("the token's secret is empty")
    if access.ca_file and not os.path.isfile(access.ca_file):
        raise BadInput(f"there is no file {access.ca_file!r}", "copy /etc/pve/pve-root-ca.pem from a node")


# --- in the child ---------------------------------------------------------------------------------------------------


def _ask(access: Access) -> dict[str, Any]:
    api = _client(access)
    nodes = sorted(str(node["node"]) for node in _get(api, access, "nodes"))
    storages = _get(api, access, "storage")
    vms, missing = [], []
    for vm in sorted(_get(api, access, "cluster/resources", type="vm"), key=lambda vm: int(vm.get("vmid", 0))):
        if vm.get("type") != "qemu":
            continue
        vmid, node = str(vm["vmid"]), str(vm["node"])
        try:
            config = _get(api, access, f"nodes/{node}/qemu/{vmid}/config", current=1)
            vms.append((vmid, node, config_text(config)))
        except VmguardError as problem:  # a node is dead: the others can tell all the same
            missing.append((vmid, node, problem.message))
    return {"nodes": nodes, "storage_cfg": storage_text(storages), "vms": vms, "missing": missing}


def _client(access: Access) -> Any:
    try:
        import requests  # noqa: F401 - proxmoxer ends the whole process when it is missing
        from proxmoxer import ProxmoxAPI
    except ImportError as problem:
        raise VmguardError(
            f"asking the API needs the Python package {problem.name}, which is not installed",
            "apt install python3-proxmoxer python3-requests, or run the audit on a node, which needs neither",
        ) from problem
    user, _, name = access.token.partition("!")
    port = {} if ":" in access.host else {"port": _PORT}
    api = ProxmoxAPI(
        access.host,
        user=user,
        token_name=name,
        token_value=access.secret,
        verify_ssl=access.ca_file or True,
        timeout=access.timeout,
        **port,
    )
    if access.ca_file:
        _trust(api._store["session"])
    return api


def _trust(session: Any) -> None:
    """Accept a cluster's own authority as it is.

    ``pvecm`` makes it without a key usage extension, and Python 3.13 holds certificates to RFC 5280 to the letter
    (VERIFY_X509_STRICT in ssl.create_default_context): no cluster could be asked from Debian 13. Everything else is
    checked as before.
    """
    import ssl

    from requests.adapters import HTTPAdapter

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *words: Any, **named: Any) -> None:
            context = ssl.create_default_context()
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
            super().init_poolmanager(*words, ssl_context=context, **named)

    session.mount("https://", Adapter())


def _get(api: Any, access: Access, path: str, **words: Any) -> Any:
    """Ask for one path. Raises VmguardError for everything that is no proper answer."""
    import requests
    from proxmoxer.core import ResourceException

    try:
        answer = api(path).get(**words)
    except ResourceException as problem:
        raise _refused(problem, access, path) from problem
    except requests.exceptions.SSLError as problem:
        raise VmguardError(
            f"{access.host} cannot prove who it is: {_first_line(problem)}",
            "give the cluster's own authority: --ca-file, a copy of /etc/pve/pve-root-ca.pem",
        ) from problem
    except requests.exceptions.Timeout as problem:
        raise VmguardError(
            f"the API of {access.host} did not answer /{path} within {access.timeout:.0f} s"
        ) from problem
    except requests.exceptions.RequestException as problem:
        raise VmguardError(
            f"the API of {access.host} cannot be reached: {_first_line(problem)}", "another node of the cluster will do"
        ) from problem
    expected = dict if path.endswith("/config") else list
    if not isinstance(answer, expected) or "errors" in answer:
        raise VmguardError(f"{access.host} answered /{path} with something that is no Proxmox API")
    return answer


def _refused(problem: Any, access: Access, path: str) -> VmguardError:
    status, words = int(problem.status_code), str(problem.content).strip()
    if status == 401:
        return VmguardError(
            f"{access.host} does not accept the token {access.token!r}: {words}", "is its secret right?"
        )
    if status == 403:
        hint = f"pveum acl modify / --tokens '{access.token}' --roles PVEAuditor"
        return VmguardError(f"the token {access.token!r} may not read /{path}: {words}", hint)
    if status in (595, 596, 597, 598, 599):
        return VmguardError(f"the node behind /{path} does not answer ({words})")
    return VmguardError(f"{access.host} answered /{path} with {status}: {words}")


def _first_line(problem: Exception) -> str:
    inner: BaseException = problem
    while inner.__cause__ is not None or inner.__context__ is not None:
        inner = inner.__cause__ or inner.__context__ or inner
    return str(inner).split("\n")[0][:200] or type(inner).__name__


# --- as the files have it -------------------------------------------------------------------------------------------


def config_text(config: Mapping[str, Any]) -> str:
    """Rebuild the main section of VMID.conf from the answer's keys."""
    lines = []
    for key, value in config.items():
        text = str(value)
        if key not in _NO_OPTIONS and "\n" not in text:
            lines.append(f"{key}: {text}\n")
    return "".join(lines)


def storage_text(storages: list[Mapping[str, Any]]) -> str:
    """Rebuild storage.cfg from the answer."""
    sections = []
    for storage in storages:
        lines = [f"{storage.get('type')}: {storage.get('storage')}"]
        for key, value in storage.items():
            text = str(value)
            if key not in _NO_KEYS and "\n" not in text:
                lines.append(f"\t{key} {text}")
        sections.append("\n".join(lines) + "\n")
    return "\n".join(sections)
