"""How many requests may be sent twice: token buckets, so that second attempts never become a second load. Pure.

=========  =======================================================  ==================================================
of what    what refills it                                          why
=========  =======================================================  ==================================================
late       2 % of the requests, 5 saved up at most                  a worker that answers others is only slow with this
                                                                    one: a second attempt is a bet on the dearest work
doubt      2 % of the requests and one a second, 100 saved up       a worker that says nothing may be frozen, and all
                                                                    that it was sent must be asked elsewhere at once
retries    a fifth of the good answers and three a second, 100      a worker that fails is hidden, however many of the
           saved up; one that is answered well costs nothing        requests it gets; where everybody fails, asking
                                                                    everybody would multiply the load
=========  =======================================================  ==================================================

What a worker could not be reached for, or died of, is not counted here: nothing is gained by not asking another.
"""

from __future__ import annotations


class Budget:
    """A token bucket. Times in seconds."""

    def __init__(self, now: float, *, share: float, per_second: float, burst: float, at_first: float) -> None:
        """`share` is what each :meth:`earn` adds; more than `burst` is not saved up; it begins with `at_first`."""
        self._share = share
        self._per_second = per_second
        self._burst = burst
        self._left = at_first
        self._at = now

    def earn(self, now: float) -> None:
        """A request came in, or was answered: what the bucket's share is of."""
        self._refill(now)
        self._add(self._share)

    def spend(self, now: float) -> bool:
        """Take one, if one is left."""
        self._refill(now)
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def give_back(self, count: int) -> None:
        """So many of those taken cost nothing after all."""
        self._add(count)

    def _refill(self, now: float) -> None:
        self._add((now - self._at) * self._per_second)
        self._at = now

    def _add(self, tokens: float) -> None:
        self._left = min(self._left + tokens, self._burst)


class Budgets:
    """Those of one pool."""

    def __init__(self, now: float) -> None:
        self.late = Budget(now, share=0.02, per_second=0.0, burst=5.0, at_first=1.0)
        self.doubt = Budget(now, share=0.02, per_second=1.0, burst=100.0, at_first=100.0)
        self.retries = Budget(now, share=0.2, per_second=3.0, burst=100.0, at_first=100.0)

    def asked(self, now: float) -> None:
        """A request came in."""
        self.late.earn(now)
        self.doubt.earn(now)

    def answered_well(self, now: float, retries: int) -> None:
        """It has its answer, after so many retries."""
        self.retries.earn(now)
        self.retries.give_back(retries)
