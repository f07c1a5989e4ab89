"""Write owner records for files that were locked without a hook, in a process of its own: ``write_records FD``.

Beside them goes the list of the VM's disks in that folder. The records come as JSON on stdin; the epochs go, as a JSON
list in the same order, into the descriptor FD (0: none was written). It may hang on the share without harm, and is
killed then.
"""

from __future__ import annotations

import functools
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def run(jobs: list[dict[str, Any]]) -> list[int]:
    """Write each record; return the epochs, 0 for a record that was not written. Each failure is a line on stderr."""
    from vmguard.adapters.storage import owner_record

    epochs = []
    for job in jobs:
        epoch = 0
        try:
            epoch = owner_record.as_owner(job["path"], functools.partial(_write, job))
        except OSError as problem:
            os.write(2, f"no owner record for {job['path']!r}: {problem.strerror}\n".encode())
        epochs.append(epoch)
    _list_disks(jobs)
    return epochs


def _write(job: dict[str, Any]) -> int:
    from vmguard.adapters.storage import owner_record

    return owner_record.write_claim(job["path"], job["folder"], int(job["inode"]), job["fields"])


def _list_disks(jobs: list[dict[str, Any]]) -> None:
    """Leave the VMs' lists, once in each folder. A share that takes none has been reported: it takes no records."""
    from vmguard.adapters.storage import owner_record

    for job in {(os.path.dirname(job["path"]), job["vm"]): job for job in jobs}.values():
        words = job["path"], job["folder"], job["vm"], job["disks"]
        try:
            owner_record.as_owner(job["path"], functools.partial(owner_record.list_disks, *words))
        except OSError:
            pass


def main() -> int:
    from vmguard.core.lean_json import decode, encode

    data = b""
    while piece := os.read(0, 1 << 16):
        data += piece
    epochs = run(decode(data.decode()))
    os.write(int(sys.argv[1]), encode(epochs).encode())
    return 0 if all(epochs) else 1


if __name__ == "__main__":
    sys.exit(main())
