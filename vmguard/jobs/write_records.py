"""Write owner records for files that were locked without a hook, in a process of its own: ``write_records FD``.

The records come as JSON on stdin; the epochs go, as a JSON list in the same order, into the descriptor FD (0: none was
written). It may hang on the share without harm, and is killed then.
"""

from __future__ import annotations

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
            epoch = owner_record.write_claim(job["path"], job["folder"], int(job["inode"]), job["fields"])
        except OSError as problem:
            os.write(2, f"no owner record for {job['path']!r}: {problem.strerror}\n".encode())
        epochs.append(epoch)
    return epochs


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
