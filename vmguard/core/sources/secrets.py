"""What is secret in the name of an image, and in any text: user and password in a URL, keys, tokens. Pure.

QEMU takes names that hold what opens the storage: ``https://me:word@host/x?token=...``, ``iscsi://me%word@host/...``,
``rbd:pool/image:id=me:key=...``, ``json:{"driver": "ssh", "user": ..., "password-secret": ...}``. Such a name is cut
where it enters a sentence (``public``), so that no refusal, log line, state file or report ever has it. The bug report
cuts once more (``without_secrets``), as it holds texts of other programs, too.

In doubt too much is cut. Imported only where such a name is shown: ``re`` costs a hook 7 ms.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from vmguard.core.sources.qemu_json import in_double_quotes
from vmguard.core.words import in_utf8

CUT = "***"
_MAX_SHOWN = 200

#: what the name of a secret has in it, or ends in; all that may repeat is bounded: strangers write these texts
_HAS = (
    r"passw|passphrase|pwd|secret|token|credential|cookie|signature|authorization|header"
    r"|(?:api|access|private)[_-]?key"
)
_KEY = rf"(?:[\w.-]{{0,60}}?(?:{_HAS})[\w.-]{{0,60}}|(?:[\w.-]{{0,60}}[._-])?(?:key|sig|user|username))"
#: rbd's own options come as one text (``"=keyvalue-pairs": "[\"key\", ...]"``, block/rbd.c)
_IS_SECRET = re.compile(rf"=keyvalue-pairs|{_KEY}", re.I)
#: host and port, or nothing: what an authority without user and password looks like
_PLAIN_AUTHORITY = re.compile(r"(?:[\w.~-]*|\[[0-9A-Fa-f:.%\w]*\])(?::\d*)?")
#: a URL in a text ends at a blank, a quote or a bracket
_URL = re.compile(r"""\b[A-Za-z][\w+.-]{0,30}://[^\s"'<>\\]+""")
#: pool and image, in which a colon is escaped, and the options behind them
_RBD = re.compile(r"""(\brbd:(?:\\.|[^:\s"'\\,])+):(?:[^\s"',]|,,)+""")
#: a key and its value in JSON, whose quotes may be escaped when it is itself a text in JSON
_IN_JSON = re.compile(
    rf"""(\\{{0,8}}["'])({_KEY}|=keyvalue-pairs)\1(\s*:\s*)(?:(\\{{0,8}}["'])(?:(?!\4)(?:\\.|.))*(?:\4|$)|\[[^\]]*(?:\]|$)|[^\s,}}\]]+)""",
    re.I | re.S,
)
#: an option of QEMU's, or of a query
_OPTION = re.compile(rf"""(?<![\w.-])({_KEY})=(?:[^\s,&;"']|,,)+""", re.I)
#: the same in a name, where a blank is a part of the value
_OPTION_OF_NAME = re.compile(rf"(?<![\w.-])({_KEY})=(?:[^,&;]|,,)+", re.I)
#: what people write, and headers of HTTP: all that follows on the line
_SAID = re.compile(
    r"(?i)((?:passw(?:or)?d|passwd|secret|token|api[_-]?key|credential\w{0,9}|cookie|authorization)\s*[:=]\s*)\S.*"
)
#: the data of a secret object of QEMU's (``secret,id=s0,data=...``)
_SECRET_DATA = re.compile(r"""(?i)(\bsecret,(?:[^\s"']*,)?data=)(?:[^\s,"']|,,)+""")
#: ``user:word@host`` without a scheme. Not in a path: there a colon is only a colon
_LOGIN = re.compile(r"""(?<![\w./-])(//|)[\w.+-]{1,60}:[^\s/@:"'<>]{1,200}@(?=[\w\[])""")


def public(name: str) -> str:
    """Return the name of an image, as QEMU has it, without what is secret in it."""
    if name.startswith("json:"):
        shown = f"json:{_json(name[5:])}"
    elif "://" in name:
        shown = _OPTION.sub(rf"\1={CUT}", _url(name))
    elif name.startswith("rbd:"):
        shown = re.sub(r"(?s)^(rbd:(?:\\.|[^:\\])*):.*", rf"\1:{CUT}", name)
    else:
        shown = _OPTION_OF_NAME.sub(rf"\1={CUT}", _patterns(name))
    return shown[:_MAX_SHOWN]


def _json(text: str) -> str:
    try:
        return _dump(_cut(json.loads(in_double_quotes(text)), public))
    except (ValueError, RecursionError):
        return _patterns(text.replace(" ", "%20"))  # nothing tells where a name ends that has a blank in it


def without_secrets(text: str) -> str:
    """Return a text of any origin without what looks like a secret. A document of JSON, or a line of it, stays one."""
    try:
        return _dump(_cut(json.loads(text), _lines), indent=1) + "\n"
    except (ValueError, RecursionError):
        return _lines(text)


def _dump(value: object, indent: int | None = None) -> str:
    return json.dumps(in_utf8(value), indent=indent)


def _lines(text: str) -> str:
    return "\n".join(map(_line, text.split("\n")))


def _line(line: str) -> str:
    if line.startswith("{"):
        try:
            return _dump(_cut(json.loads(line), _lines))
        except (ValueError, RecursionError):
            pass
    return _patterns(_SAID.sub(rf"\1{CUT}", line))


def _cut(value: object, cut: Callable[[str], str]) -> object:
    """Return a value of JSON without its secrets, and with ``cut`` done to each text in it."""
    if isinstance(value, dict):
        return {key: CUT if item and _IS_SECRET.fullmatch(key) else _cut(item, cut) for key, item in value.items()}
    if isinstance(value, list):
        return [_cut(item, cut) for item in value]
    return cut(value) if isinstance(value, str) else value


def _patterns(text: str) -> str:
    """Cut whatever looks like a secret, anywhere in a text."""
    text = _IN_JSON.sub(rf"\1\2\1\3\1{CUT}\1", text)
    text = _URL.sub(lambda found: _url(found[0]), text)
    text = _RBD.sub(rf"\1:{CUT}", text)
    text = _SECRET_DATA.sub(rf"\1{CUT}", text)
    text = _LOGIN.sub(rf"\1{CUT}@", text)
    return _OPTION.sub(rf"\1={CUT}", text)


def _url(text: str) -> str:
    scheme, _, rest = text.partition("://")
    body, mark, _ = rest.partition("?")
    if "@" not in body and "#" in body:  # what a server never sees has no place in an image's name
        body, mark = body.partition("#")[0], "?"
    authority, slash, path = body.partition("/")
    if "@" in authority or not _PLAIN_AUTHORITY.fullmatch(authority):
        # A password may hold any sign, if only because somebody forgot to escape it.
        _, sign, place = rest.rpartition("@")
        body, mark, _ = (f"{CUT}@{place}" if sign else f"{CUT}{slash}{path}").partition("?")
    return f"{scheme}://{body}" + (f"?{CUT}" if mark else "")
