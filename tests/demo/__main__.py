"""``python -m tests.demo [--record FILE] [--html FILE]``: plays story.py, and writes down what was seen."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.demo import incident, record
from tests.demo.story import Failed, Story
from tests.lab import Lab, LabError

_FORMATS = {".svg": record.svg, ".cast": record.asciicast}
_TITLE = "vmguard's demo: one disk, two hosts, a storage reboot and a cut, without vmguard and with it"


def main() -> int:
    parser = argparse.ArgumentParser("tests/lab/demo", description="vmguard's main job, live on real kernels.")
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="write down what was seen: a picture (.svg) or an asciicast (.cast)"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the incidents of the demo as a page")
    args = parser.parse_args()
    if args.record is not None and args.record.suffix not in _FORMATS:
        parser.error(f"--record: {args.record} ends neither with .svg nor with .cast")
    with Lab() as lab:
        story = Story(lab)
        try:
            story.run()
            if args.html is not None:
                incident.draw(story.nodes, args.html)
        except (Failed, LabError) as problem:
            lab.keep_logs()
            print(f"demo: FAILED: {problem}", file=sys.stderr)
            return 1
    if args.record is not None:
        draw = _FORMATS[args.record.suffix]
        args.record.write_text(draw(story.screen.lines, story.screen.rows, _TITLE))
    return 0


if __name__ == "__main__":
    sys.exit(main())
