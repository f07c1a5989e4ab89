"""The command line's orders: guard VMs that run already, disarm the watchdog, arm it again."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from vmguard.daemon.api.sessions import Handler, Request, Session
from vmguard.daemon.watch.maintenance_mode import MAX_DISARM_S, MaintenanceMode
from vmguard.errors import BadInput
from vmguard.protocol.adoption import AdoptRequest
from vmguard.protocol.messages import shown
from vmguard.protocol.wire import Message

_TEXT_CHARACTERS = 500

#: carries out ``adopt``: the request, and where its answer goes
Adopt = Callable[[AdoptRequest, Callable[[list[dict[str, Any]] | BadInput], None]], None]


class Commands:
    """The handlers of ``adopt``, ``disarm`` and ``arm``."""

    def __init__(self, maintenance: MaintenanceMode, adopt: Adopt) -> None:
        self._maintenance = maintenance
        self._adopt = adopt

    @property
    def handlers(self) -> dict[str, Handler]:
        return {"adopt": self._take_up, "disarm": self._disarm, "arm": self._arm}

    def _take_up(self, request: Request) -> None:
        self._adopt(AdoptRequest.from_message(request.message), functools.partial(_answer, request.session))

    def _disarm(self, request: Request) -> Message:
        message = request.message
        seconds, reason = message["seconds"], (message.get("reason") or "").strip()
        if not 0 < seconds <= MAX_DISARM_S:
            raise BadInput(f"{shown(seconds)} is not a number of seconds up to {MAX_DISARM_S:.0f}")
        if not reason:
            raise BadInput("a reason is needed: somebody will read it")
        kept = self._maintenance.disarm(float(seconds), reason[:_TEXT_CHARACTERS], _by(message))
        return {"disarmed": self._maintenance.as_json(), "survives_restart": kept}

    def _arm(self, request: Request) -> Message:
        was = self._maintenance.as_json()
        self._maintenance.arm(_by(request.message))
        return {"was": was}


def _answer(session: Session, found: list[dict[str, Any]] | BadInput) -> None:
    if isinstance(found, BadInput):
        session.refuse(found)
    else:
        session.answer_list(found)


def _by(message: Message) -> str:
    """Return who gives an order, for the history."""
    return (message.get("by") or "somebody")[:_TEXT_CHARACTERS]
