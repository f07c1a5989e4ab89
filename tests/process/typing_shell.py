"""A real shell at a terminal of its own: keys go in, the command line that it makes of them comes out."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.processes import track

#: bound in both shells to a function that prints the command line
_SHOW = b"\x18s"
#: not Control-U: while the shell is busy, the terminal itself takes that for its own
_CLEAR = b"\x01\x0b"
_SHOWN = re.compile(rb"<<([^>\r\n]*)>>")
_PATIENCE_S = 30.0

#: read by bash in the place of ~/.bashrc; the script of the completion is the word {script}
BASHRC = """\
PS1='$ '
source {script}
bind 'set bell-style none'
bind 'set enable-bracketed-paste off'
bind -x '"\\C-xs": printf "\\n<<%s>>\\n" "$READLINE_LINE"'
"""
ZSHRC = """\
PROMPT='$ '
fpath=({folder} $fpath)
autoload -U compinit
compinit -u -d {folder}/dump
_show() {{ zle -I; print -r -- "<<$BUFFER>>" }}
zle -N _show
bindkey -e
bindkey '^Xs' _show
"""


class TypingShell:
    """The shell. ``command`` starts it so that it binds Control-X s to "print the command line in << >>"."""

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        self._terminal, slave = pty.openpty()
        try:
            self._shell = track(
                subprocess.Popen(
                    command,
                    stdin=slave,
                    stdout=slave,
                    stderr=slave,
                    cwd=folder,
                    env={"TERM": "xterm", "LC_ALL": "C.UTF-8", "HOME": str(folder), **environment},
                    start_new_session=True,
                )
            )
        finally:
            os.close(slave)
        self.line_of("")

    def line_of(self, keys: str) -> str:
        """Return the command line after some keys, typed into an empty one."""
        os.write(self._terminal, _CLEAR + keys.encode() + _SHOW)
        seen, end = b"", time.monotonic() + _PATIENCE_S
        while (shown := _SHOWN.search(seen)) is None:
            left = end - time.monotonic()
            assert left > 0, seen
            if select.select([self._terminal], [], [], left)[0]:
                seen += os.read(self._terminal, 65536)
        return shown[1].decode()

    def end(self) -> None:
        self._shell.kill()
        self._shell.wait()
        os.close(self._terminal)


def bash(script: Path, folder: Path, environment: Mapping[str, str]) -> TypingShell:
    (folder / "bashrc").write_text(BASHRC.format(script=script))
    return TypingShell(["bash", "--noprofile", "--rcfile", str(folder / "bashrc"), "-i"], folder, environment)


def zsh(script: Path, folder: Path, environment: Mapping[str, str]) -> TypingShell:
    """Start zsh with the script in its function path; it must be called _vmguard there."""
    (folder / "_vmguard").write_text(script.read_text())
    (folder / ".zshrc").write_text(ZSHRC.format(folder=folder))
    return TypingShell(["zsh", "-i"], folder, {"ZDOTDIR": str(folder), **environment})
