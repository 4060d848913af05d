"""How many requests may be sent twice: token buckets that keep second attempts from becoming a second load. Pure.

====================  ==================================================  =============================================
budget                what refills it                                     why
====================  ==================================================  =============================================
slow hedges           2 % of the requests; 5 saved up at most             A worker that answers others is only slow with
                                                                          this request. A second attempt is a bet, made
                                                                          on the most expensive requests.
unresponsive hedges   2 % of the requests and one a second; 100 saved up  A worker that answers nothing may be frozen.
                                                                          All its requests must be sent elsewhere at
                                                                          once.
retries               a fifth of the good answers and three a second;     Every request can avoid one failing worker. If
                      100 saved up; a retry that succeeds is refunded     all workers fail, asking each of them would
                                                                          multiply the load.
outage                2 % of the requests and one a second; 5 saved up    Nobody has answered well lately, so another
                                                                          attempt hardly helps. A few find out who is
                                                                          back.
====================  ==================================================  =============================================

In an outage (worker_selector.py), each attempt after a request's first is paid from the last of these. Otherwise, the
attempt after one whose worker was unreachable, or died, is free: the next worker must be asked anyway.
"""

from __future__ import annotations


class RetryBudget:
    """A token bucket. Times in seconds."""

    def __init__(self, now: float, *, share: float, per_second: float, burst: float, initial: float) -> None:
        """Each :meth:`deposit` adds `share`, each second adds `per_second`. No more than `burst` is saved up."""
        self._share = share
        self._per_second = per_second
        self._burst = burst
        self._tokens = initial
        self._refilled_at = now

    def deposit(self, now: float) -> None:
        """Count one request or one good answer, whichever this budget is a share of."""
        self._refill(now)
        self._add(self._share)

    def try_withdraw(self, now: float) -> bool:
        """Take one token. Returns False if there is none."""
        self._refill(now)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def refund(self, count: int) -> None:
        """Put tokens back that were not needed."""
        self._add(count)

    def _refill(self, now: float) -> None:
        self._add((now - self._refilled_at) * self._per_second)
        self._refilled_at = now

    def _add(self, tokens: float) -> None:
        self._tokens = min(self._tokens + tokens, self._burst)


class RetryBudgets:
    """The budgets of one pool."""

    def __init__(self, now: float) -> None:
        self.slow_hedges = RetryBudget(now, share=0.02, per_second=0.0, burst=5.0, initial=1.0)
        self.unresponsive_hedges = RetryBudget(now, share=0.02, per_second=1.0, burst=100.0, initial=100.0)
        self.retries = RetryBudget(now, share=0.2, per_second=3.0, burst=100.0, initial=100.0)
        self.outage = RetryBudget(now, share=0.02, per_second=1.0, burst=5.0, initial=5.0)

    def record_request(self, now: float) -> None:
        """A request came in."""
        self.slow_hedges.deposit(now)
        self.unresponsive_hedges.deposit(now)
        self.outage.deposit(now)

    def record_success(self, now: float, retries: int) -> None:
        """A request was answered well, after this many retries."""
        self.retries.deposit(now)
        self.retries.refund(retries)
