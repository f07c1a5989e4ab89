"""When something that failed may be tried again: at once, at a time, or not before an event says so."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RetryNow:
    """Nothing stands against a try."""

    def is_due(self, now: float) -> bool:
        return True

    def no_earlier_than(self, seconds: float) -> Retry:
        return RetryAt(seconds)

    def no_later_than(self, seconds: float) -> Retry:
        return self


@dataclass(frozen=True)
class RetryAt:
    """A try may be made from this time on."""

    #: CLOCK_BOOTTIME
    seconds: float

    def is_due(self, now: float) -> bool:
        return now >= self.seconds

    def no_earlier_than(self, seconds: float) -> Retry:
        return RetryAt(max(self.seconds, seconds))

    def no_later_than(self, seconds: float) -> Retry:
        return RetryAt(min(self.seconds, seconds))


@dataclass(frozen=True)
class RetryNever:
    """No time brings the next try, only an event does."""

    def is_due(self, now: float) -> bool:
        return False

    def no_earlier_than(self, seconds: float) -> Retry:
        return self

    def no_later_than(self, seconds: float) -> Retry:
        return RetryAt(seconds)


Retry = RetryNow | RetryAt | RetryNever
