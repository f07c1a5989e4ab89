"""In a guest: claim and release the same disks as another host, as the test says.

    race.py HOOK NAME XML-FILE      orders on stdin, one answer (a JSON object) a line

``claim TIME`` runs the hook at that time of the wall clock, which all guests of a lab share; ``look`` counts the file
locks that this host has; ``release`` says that the start came to nothing.
"""

import json
import subprocess
import sys
import time


def hook(words: list[str], xml: str) -> dict[str, object]:
    with open(xml) as stdin:
        result = subprocess.run(words, stdin=stdin, capture_output=True, text=True, timeout=60)
    return {"rc": result.returncode, "text": result.stderr}


def ofd_locks() -> dict[str, object]:
    with open("/proc/locks") as lines:
        return {"locks": sum("OFDLCK" in line for line in lines)}


def main() -> None:
    command, name, xml = sys.argv[1:4]
    for line in sys.stdin:
        order, _, moment = line.strip().partition(" ")
        if order == "claim":
            time.sleep(max(0.0, float(moment) - time.time()))
            answer = hook([command, name, "prepare", "begin", "-"], xml)
        elif order == "look":
            answer = ofd_locks()
        else:
            answer = hook([command, name, "release", "end", "-"], xml)
        print(json.dumps({"order": order, **answer}), flush=True)


if __name__ == "__main__":
    main()
