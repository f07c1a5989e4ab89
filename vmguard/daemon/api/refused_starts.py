"""The starts that a hook has refused: reported, because a VM that is not started is not seen by anybody else."""

from __future__ import annotations

from collections.abc import Callable

from vmguard.core.watchdog.events import Level, Report
from vmguard.core.words import printable, vm_title
from vmguard.daemon.api.sessions import Handler, Request

_REASON_CHARACTERS = 500


class RefusedStarts:
    """The handler of ``refused``."""

    def __init__(self, report: Callable[[Report], object]) -> None:
        self._report = report

    @property
    def handlers(self) -> dict[str, Handler]:
        return {"refused": self._refused}

    def _refused(self, request: Request) -> None:
        about = request.session.about
        if not about:
            return
        why = request.message["reason"].partition("\n")[0][:_REASON_CHARACTERS]
        sentence = f"{vm_title(about['name'])}: its start is refused: {printable(why)}"
        self._report(Report(Level.WARNING, "start.refused", sentence, about))
