"""`python -m tests.lab.sweep`: remove what dead labs left behind; labs with a living owner are not touched.

A lab belongs to the process whose pid and start time are in its directory's name.
"""

from __future__ import annotations

from tests.lab.space import dead_labs, sweep_one


def main() -> None:
    for directory in dead_labs():
        print(f"sweeping {directory}")
        sweep_one(directory)


if __name__ == "__main__":
    main()
