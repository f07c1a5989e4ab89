"""Send what waits for a target, as one message: ``notify FOLDER TARGET``; its settings are JSON on standard input.

A process of its own: a name server, a mail server or a library may hang, and then it is ended (SIGALRM; by the daemon
should that fail). Nothing of a secret leaves this process but to the target.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys

from vmguard.adapters.messages import sending
from vmguard.adapters.messages.delivery import deliver
from vmguard.adapters.messages.queue import Queue
from vmguard.core.notices.pace import GRACE_S

#: exit status: another process sends to this target
BUSY = 3
#: the daemon, whose child this is, runs before everybody else: this is not as urgent
_NICE = 5


def main() -> int:
    folder, target = sys.argv[1:3]
    order = json.load(sys.stdin)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(math.ceil(order["wanted"]["timeout"] + GRACE_S))
    sending.confine()
    os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    try:
        deliver(Queue(folder, target), order["wanted"], order["host"])
    except BlockingIOError:
        return BUSY
    except OSError as problem:
        sys.stderr.write(f"the queue of {target} cannot be used: {problem.strerror}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
