"""Mark owner records as released, in a process of its own, with the jobs on stdin.

The daemon starts it when a VM's locks are gone. It may hang on the share without harm, and is killed then.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmguard.core.locks.owner_record import Owner


def run(jobs: list[dict[str, Any]]) -> int:
    """Mark each record; return 0 if all went well. Each failure is a line on stderr."""
    from vmguard.core.locks.owner_record import Owner

    failed = 0
    for job in jobs:
        owner = Owner(int(job["epoch"]), **job["fields"])
        try:
            _write(job, owner)
        except OSError as problem:
            failed += 1
            os.write(2, f"owner record of {job['path']!r} not marked as released: {problem.strerror}\n".encode())
    _sweep(jobs)
    return 1 if failed else 0


def _sweep(jobs: list[dict[str, Any]]) -> None:
    """Remove the records of deleted disks, once in each folder. Nobody depends on it."""
    from vmguard.adapters.storage import owner_record, record_sweep

    folders: dict[str, dict[str, Any]] = {}
    for job in jobs:
        folders.setdefault(os.path.dirname(job["path"]), job)
    for job in folders.values():
        path, name, inode = job["path"], job["folder"], int(job["inode"])
        try:
            owner_record.as_owner(path, lambda: record_sweep.sweep(path, name, inode))  # noqa: B023
        except OSError:
            pass


def _write(job: dict[str, Any], owner: Owner) -> None:
    from vmguard.adapters.storage import owner_record

    path: str = job["path"]
    owner_record.as_owner(path, lambda: owner_record.write_release(path, job["folder"], int(job["inode"]), owner))


def main() -> int:
    from vmguard.core.lean_json import decode

    data = b""
    while piece := os.read(0, 1 << 16):
        data += piece
    return run(decode(data.decode()))


if __name__ == "__main__":
    sys.exit(main())
