"""The recovery database of a lab server, which goes back in time: a restored snapshot, a lagging HA pair."""

from __future__ import annotations

from tests.lab import NfsServer

_STATE = "/var/lib/nfs"
_FOLDERS = " ".join(f"{_STATE}/{name}" for name in ("nfsdcld", "nfsdcltrack", "v4recovery"))


def save_database(server: NfsServer) -> None:
    server.run(f"rm -rf {_STATE}/old; mkdir -p {_STATE}/old; cp -a {_FOLDERS} {_STATE}/old/; sync")


def restore_database(server: NfsServer) -> None:
    """Put the saved one in its place; the server has to be started anew then."""
    server.run(f"pkill -x nfsdcld; sleep .3; rm -rf {_FOLDERS}; cp -a {_STATE}/old/* {_STATE}/; sync")
