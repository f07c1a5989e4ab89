"""vmguard's command line with stand-ins for the programs that it runs: ``stand_ins.py FOLDER WORD...``.

Programs are found in a PATH of vmguard's own, whatever the environment says; here FOLDER comes first in it.
"""

from __future__ import annotations

import sys

from vmguard.adapters.linux import spawn
from vmguard.cli.main import main

if __name__ == "__main__":
    spawn.PATH = f"{sys.argv[1]}:{spawn.PATH}"
    sys.exit(main(sys.argv[2:]))
