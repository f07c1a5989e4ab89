"""Errors of the lab. They have a class tree of their own: a broken lab is not a failure of the code under test.

LabError
    LabUnavailable      this machine cannot run the lab (not root, no user-mode-linux)
    GuestDown           the guest is switched off, or died during the call
    CommandFailed       a command ended with another code than 0     .result
    GuestTimeout        a command or a boot took too long            .stdout and .stderr: what was printed until then
"""

from __future__ import annotations

from dataclasses import dataclass


class LabError(Exception):
    pass


class LabUnavailable(LabError):
    pass


class GuestDown(LabError):
    pass


@dataclass(frozen=True)
class Result:
    """A finished command. `returncode` counts as in subprocess: -9 means killed by signal 9."""

    returncode: int
    stdout_bytes: bytes
    stderr_bytes: bytes

    @property
    def stdout(self) -> str:
        return self.stdout_bytes.decode(errors="replace")

    @property
    def stderr(self) -> str:
        return self.stderr_bytes.decode(errors="replace")

    def __str__(self) -> str:
        return f"exit {self.returncode}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"


class CommandFailed(LabError):
    def __init__(self, guest: str, command: str, result: Result) -> None:
        super().__init__(f"{guest}: {command!r} failed: {result}")
        self.result = result


class GuestTimeout(LabError):
    def __init__(self, guest: str, what: str, seconds: float, stdout: bytes = b"", stderr: bytes = b"") -> None:
        self.stdout = stdout.decode(errors="replace")
        self.stderr = stderr.decode(errors="replace")
        printed = f"\n--- stdout so far\n{self.stdout}\n--- stderr so far\n{self.stderr}" if stdout or stderr else ""
        super().__init__(f"{guest}: {what!r} not done after {seconds:g} s{printed}")
