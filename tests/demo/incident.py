"""The demo's own incidents as a page: what ``vmguard report --merge`` makes of its hosts' histories."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from tests.support.guarded_guests import Guarded
from tests.support.watched_guests import history
from vmguard.core.pictures import page
from vmguard.core.pictures.bars import Kind
from vmguard.core.pictures.chapters import Source, album
from vmguard.core.pictures.entry import Entry

_TITLE = "vmguard's demo: one disk, two hosts, a storage reboot and a cut"


def draw(nodes: Sequence[Guarded], path: Path) -> None:
    """Write the page, while the hosts still run. Raises ValueError when it does not show what the demo has shown."""
    sources = [Source(node.name, [Entry.from_json(line) for line in history(node)], whole=True) for node in nodes]
    found = album(sources)
    kinds = {bar.kind for chapter in found.chapters for lane in chapter.lanes for bar in lane.bars}
    lacking = {Kind.SILENT, Kind.EXPIRED, Kind.RECOVERING, Kind.FROZEN, Kind.FENCING} - kinds
    if lacking:
        raise ValueError(f"the picture of the demo lacks {', '.join(sorted(lacking))}")
    path.write_text(page.html(found, _TITLE, time.time()))
