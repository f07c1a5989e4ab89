"""Secrets: read when they are needed, by the process that sends; never in arguments, variables, errors or logs.

A file must be root's own (or the caller's) and closed to everybody else, mode 0600 or 0400. ``credential:NAME`` is what
systemd passes to vmguard.service (``LoadCredential=``, ``LoadCredentialEncrypted=`` in a drop-in), in a folder that
only root can read. Credentials give a service no mount namespace of its own (systemd's
exec_needs_mount_namespace), which the daemon could not have.
"""

from __future__ import annotations

import os
import re
import stat

from vmguard.core.words import shell_word
from vmguard.errors import BadInput

_CREDENTIAL = "credential:"
#: where systemd puts them (systemd.exec(5)); also for commands, which get no $CREDENTIALS_DIRECTORY
CREDENTIALS = "/run/credentials/vmguard.service"
#: those of the unit that stands in for the daemon while it is down
_STAND_IN = "/run/credentials/vmguard-notify.service"
_MAX_BYTES = 16 * 1024
_CLOSED = stat.S_IRWXG | stat.S_IRWXO
_SHOWN_INSTEAD = "***"
#: a shorter word would be cut out of texts that have nothing to do with it
_LEAST_TO_CUT = 4


def read(where: str, credentials: str = CREDENTIALS) -> str:
    """Return a secret without the white space around it. Raises BadInput, which says what to do."""
    path, name = _path(where, credentials)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as problem:
        raise BadInput(f"{name} cannot be read: {problem.strerror}", _remedy(where, path)) from None
    try:
        _require_closed(path, os.fstat(fd), is_file=not where.startswith(_CREDENTIAL))
        data = os.read(fd, _MAX_BYTES + 1)
    except OSError as problem:
        raise BadInput(f"{name} cannot be read: {problem.strerror}") from None
    finally:
        os.close(fd)
    if len(data) > _MAX_BYTES:
        raise BadInput(f"{name} holds more than {_MAX_BYTES} bytes: that is no secret")
    try:
        text = data.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise BadInput(f"{name} is not UTF-8") from None
    if not text:
        raise BadInput(f"{name} is empty", _remedy(where, path))
    return text


def why_not(where: str, credentials: str = CREDENTIALS) -> str:
    """Return, in words, why a secret cannot be had; empty if it can."""
    try:
        read(where, credentials)
    except BadInput as problem:
        return problem.message
    return ""


def without(text: str, secrets: list[str]) -> str:
    """Return a text, as a server or a library gave it, without any of the secrets, or a part of one."""
    lines = {line.strip() for secret in secrets for line in [secret, *secret.split("\n")]}
    words = lines | {word for line in lines if "://" in line for word in re.split(r"[/?#&=@:;,]+", line)[1:]}
    for line in sorted(words, key=len, reverse=True):
        if len(line) >= _LEAST_TO_CUT:
            text = text.replace(line, _SHOWN_INSTEAD)
    return text


def _path(where: str, credentials: str) -> tuple[str, str]:
    if not where.startswith(_CREDENTIAL):
        return where, where
    word = where.removeprefix(_CREDENTIAL)
    folder = credentials if os.path.isdir(credentials) else _STAND_IN
    return os.path.join(folder, word), f"the credential {word} of vmguard.service"


def _require_closed(path: str, status: os.stat_result, is_file: bool) -> None:
    """Raise BadInput unless nobody but its owner, root or the caller, can read it."""
    if not stat.S_ISREG(status.st_mode):
        raise BadInput(f"{path} is not a regular file")
    if status.st_uid not in (0, os.geteuid()):
        raise BadInput(f"{path} belongs to user {status.st_uid}, not to root", f"chown root: {shell_word(path)}")
    if is_file and status.st_mode & _CLOSED:
        mode = stat.S_IMODE(status.st_mode)
        raise BadInput(
            f"{path} holds a secret, and others may read it (mode {mode:04o})", f"chmod 600 {shell_word(path)}"
        )


def _remedy(where: str, path: str) -> str:
    if where.startswith(_CREDENTIAL):
        word = where.removeprefix(_CREDENTIAL)
        return (
            f"systemctl edit vmguard   # [Service] LoadCredential={word}:/etc/vmguard/secrets/{word}; then restart it"
        )
    return f"install -m 600 /dev/stdin {shell_word(path)}   # then type it, and Ctrl-D"
