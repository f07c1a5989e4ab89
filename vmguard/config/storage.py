"""The section ``storage`` of the table of settings (vmguard/config/settings.py)."""

from __future__ import annotations

from dataclasses import dataclass

from vmguard.config.row import setting
from vmguard.config.values import Folders


@dataclass(frozen=True)
class Storage:
    """How far a share reaches."""

    trusted_folders: tuple[str, ...] = setting(
        Folders(),
        (),
        "Folders that the shares may lead to. A symbolic link on a share, or the header of an image (backing file, "
        "data file), may name any file of this host, and whoever may write to the share decides which. Without a word "
        "from you such a file must lie on that share, on another NFSv4 share, or beside its image; else the start is "
        "refused. Backing images on this host's own file systems are read, but not locked. Name only folders whose "
        "files every such VM may open.",
    )
