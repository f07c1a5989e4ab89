"""The port to a storage server: what can be asked of it. What an adapter cannot know, it names (``blind_to``)."""

from __future__ import annotations

from typing import Protocol

from vmguard.core.servers.facts import Client, ServerFacts


class StorageServer(Protocol):
    """One storage server, by its administration. Every call may take seconds, and raises ServerError."""

    #: ``knfsd``
    kind: str
    #: its name as mounts have it
    name: str
    #: what no server of this kind can be asked, in words
    blind_to: tuple[str, ...]

    @property
    def may_release(self) -> bool:
        """Whether a client's state can be released through this entry."""

    def facts(self) -> ServerFacts:
        """Return all that it says of itself now."""

    def block(self, address: str) -> None:
        """Have it take nothing more from an address; return when that is in force."""

    def unblock(self, address: str) -> None:
        """Take a block back."""

    def release(self, client: Client) -> None:
        """Expire exactly this client, with its locks. Refused when it has renewed its lease within a lease's time."""
