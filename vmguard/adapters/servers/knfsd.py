"""The Linux kernel's NFS server, asked through the probe (vmguard/adapters/servers/probe.py)."""

from __future__ import annotations

from collections.abc import Sequence

from vmguard.adapters.servers.transport import Way
from vmguard.core.servers import document, knfsd
from vmguard.core.servers.facts import Client, ServerFacts
from vmguard.core.words import printable
from vmguard.errors import ServerError

#: beyond its own: the probe waits for the kernel when it expires a client
_RELEASE_S = 15.0


class KnfsdServer:
    """A Linux server. ``reads`` and ``releases``: the ways of two accounts, the second of which may be missing."""

    kind = knfsd.KIND
    blind_to: tuple[str, ...] = (
        "which byte range each of several holders of one file has (/proc/locks names no client)",
        "programs on the server itself that use the images (they are not bound by its grace period)",
        "the scope that it tells clients, if it was not started under its present host name",
    )

    def __init__(self, name: str, reads: Way, releases: Way | None, seconds: float) -> None:
        """``seconds``: for one question."""
        self.name = name
        self._reads = reads
        self._releases = releases
        self._seconds = seconds

    @property
    def may_release(self) -> bool:
        return self._releases is not None

    def facts(self) -> ServerFacts:
        return parse(self._reads.ask(["report"], self._seconds))

    def block(self, address: str) -> None:
        self._order(["block", address], "blocked")

    def unblock(self, address: str) -> None:
        self._order(["unblock", address], "unblocked")

    def release(self, client: Client) -> None:
        name = client.name.encode("utf-8", "surrogateescape").hex()
        self._order(["release", name, client.clientid], "released")

    def _order(self, words: Sequence[str], done: str) -> None:
        """Have an order carried out. ``done``: what an answer has only when it was: a forced command may do another."""
        if self._releases is None:
            key = "release_destination or release_command"
            text = f"nothing can be released on {printable(self.name)} from here: servers.NAME.{key} is not set"
            raise ServerError(text, "vmguard storage probe --help says how")
        if not document.read(self._releases.ask(words, self._seconds + _RELEASE_S)).text(done):
            text = f"{printable(self.name)} was asked to {words[0]} and answered something else"
            raise ServerError(text, "its key may do nothing but report: vmguard-storage-probe --asked allows it")


def parse(data: bytes) -> ServerFacts:
    """Read an answer of the probe to ``report``. Raises ServerError."""
    return knfsd.facts(document.read(data))
