"""A gateway in front of a lab server's nfsd, which answers or delays as another server would; see inside/gateway.py."""

from __future__ import annotations

from tests.lab import Job, NfsServer
from tests.lab.guest import PYTHON, REPOSITORY
from tests.support.guarded_guests import Guarded

PORT = 20490
_MODE = "/run/gateway-mode"


def set_mode(server: NfsServer, mode: str) -> None:
    """Change how the gateway behaves from now on."""
    server.put(_MODE, mode.encode())


def start_gateway(server: NfsServer, mode: str = "plain") -> Job:
    """Start it in the server; it ends with the server's power."""
    set_mode(server, mode)
    command = [PYTHON, f"{REPOSITORY}/tests/scenarios/inside/gateway.py", str(PORT), _MODE]
    gateway = server.spawn(command)
    gateway.wait_for("^ready", 30)
    return gateway


def mount_through(server: NfsServer, node: Guarded, version: str = "4.2") -> None:
    node.mount(server, options=f"vers={version},hard,port={PORT}")
