"""vmguard: a guard for the disks of virtual machines on NFSv4."""

__version__ = "0.1.0"
