"""Asks a daemon for its status again and again, within the daemon's own namespaces: RUN_DIR COUNT AT_ONCE.

Prints as JSON how long each answer took, in milliseconds, and what went wrong.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from vmguard.errors import DaemonError, WireError
from vmguard.protocol.client import Daemon


def main() -> None:
    run_dir, count, at_once = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    left, lock = iter(range(count)), threading.Lock()
    times: list[float] = []
    refused: list[str] = []

    def ask() -> None:
        while True:
            with lock:
                if next(left, None) is None:
                    return
            began = time.monotonic()
            try:
                with Daemon(run_dir, 5.0) as daemon:
                    daemon.status()
                    daemon.health()
                times.append(1000 * (time.monotonic() - began))
            except (DaemonError, WireError, OSError) as problem:
                refused.append(str(problem))
            if at_once == 1:
                time.sleep(0.1)

    threads = [threading.Thread(target=ask) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"times": times, "refused": refused}))


main()
