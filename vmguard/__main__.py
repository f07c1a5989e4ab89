"""``python3 -m vmguard``: the same as the command ``vmguard``."""

import sys

from vmguard.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
