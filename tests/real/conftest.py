"""Tests on this machine's real libvirt and QEMU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.libvirt_host import LibvirtHost


@pytest.fixture(scope="session")
def session_host() -> Iterator[LibvirtHost]:
    with LibvirtHost() as host:
        yield host


@pytest.fixture
def host(session_host: LibvirtHost) -> Iterator[LibvirtHost]:
    """A guarded hypervisor without any domain; libvirtd and the daemon are the same for all tests."""
    yield session_host
    session_host.use_hook(True)
    session_host.clear()


@pytest.fixture
def disks(host: LibvirtHost) -> Path:
    """A folder for disk images that QEMU's user can reach."""
    folder = host.folder / "disks"
    folder.mkdir()
    return folder
