"""A web hook: HTTP POST of a JSON body, whose shape is ``Message.as_json``.

With a key the header ``X-Vmguard-Signature: sha256=HEX`` has the HMAC-SHA256 (RFC 2104) of the body. Redirects are not
followed: a POST with a secret goes where the admin says, and nowhere else. No proxy of the environment is asked.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import ssl
import urllib.parse
from collections.abc import Mapping
from typing import Any

import vmguard
from vmguard.core.notices.message import Message
from vmguard.errors import BadInput, VmguardError

SIGNATURE = "X-Vmguard-Signature"
#: characters of an answer's body that are told
_MAX_ANSWER = 200


def post(message: Message, wanted: Mapping[str, Any], secrets: Mapping[str, str], seconds: float) -> str:
    """Post a message; return the server's answer.

    ``secrets``: those of url_file, token_file and sign_file, as far as they are given. Raises OSError,
    http.client.HTTPException, VmguardError.
    """
    url = urllib.parse.urlsplit(secrets.get("url_file") or wanted["url"])
    if url.scheme not in ("http", "https") or not url.hostname:
        raise BadInput("the URL is not one of http or https")
    body = json.dumps(message.as_json()).encode()
    connection = _connection(url, wanted["ca"], seconds)
    path = urllib.parse.urlunsplit(("", "", url.path or "/", url.query, ""))
    try:
        connection.request("POST", path, body, _headers(message, wanted, secrets, body))
        response = connection.getresponse()
        said = response.read(_MAX_ANSWER).decode(errors="replace").strip()
    finally:
        connection.close()
    answer = f"{response.status} {response.reason}" + (f": {said}" if said else "")
    if not 200 <= response.status < 300:
        raise VmguardError(f"the server answered {answer}")
    return answer


def _connection(url: urllib.parse.SplitResult, ca: str, seconds: float) -> http.client.HTTPConnection:
    try:
        host, port = str(url.hostname), url.port
    except ValueError:
        raise BadInput("the port of the URL is no number") from None
    if url.scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=seconds)
    context = ssl.create_default_context(cafile=ca or None)
    return http.client.HTTPSConnection(host, port, timeout=seconds, context=context)


def _headers(message: Message, wanted: Mapping[str, Any], secrets: Mapping[str, str], body: bytes) -> dict[str, str]:
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"vmguard/{vmguard.__version__}",
        "X-Vmguard-Id": message.id,
    }
    if wanted["header"]:
        name, _, value = wanted["header"].partition(":")
        headers[name] = value.strip()
    if "token_file" in secrets:
        headers["Authorization"] = f"Bearer {secrets['token_file']}"
    if "sign_file" in secrets:
        made = hmac.new(secrets["sign_file"].encode(), body, hashlib.sha256).hexdigest()
        headers[SIGNATURE] = f"sha256={made}"
    return headers
