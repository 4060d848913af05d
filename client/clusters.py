"""Which cluster's workers a pool calls, where its sources are of several: nothing may cross clusters. Pure.

The rules:

- `cluster=` insists on one.
- Else one is chosen, and stays for as long as the pool is open: that of the most sources, and where these are equal,
  that of the source listed first. So all callers with the same sources choose the same, whoever answers first.
- It is chosen as soon as no source still to be heard could change that, or when those have had their time.
- A source of another cluster is asked on, because it may come back as one of this; it has no vote, and is named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rumormill.client.topology import NOT_ASKED, SidecarSource

_SHOWN = 64
"""Characters of another's label that are passed on to people."""


class ClusterChoice:
    """The cluster of one pool."""

    def __init__(self, insisted: str | None) -> None:
        self.insisted = insisted is not None
        self.name = insisted
        """None until it is chosen."""

    def choose(self, sources: Sequence[SidecarSource], *, waited: bool) -> None:
        """Choose, if it is time: `waited` says that sources still unheard have had theirs."""
        answered = [s.answer.cluster for s in sources if s.answering and s.answer is not None]
        if self.name is not None or not answered:
            return
        # Of equal ones, `most_common` names that first met, and so that first listed.
        (leader, votes), *others = Counter(answered).most_common()
        unheard = sum(not s.answering and s.trouble == NOT_ASKED for s in sources)
        rival = unheard + (others[0][1] if others else 0)
        first = sources[0].answer
        safe = votes > rival or (votes == rival and first is not None and first.cluster == leader)
        if waited or not unheard or safe:
            self.name = leader

    def own(self, sources: Sequence[SidecarSource]) -> list[SidecarSource]:
        """The sources that count; none before there is a choice."""
        return [s for s in sources if s.answer is not None and s.answer.cluster == self.name]

    def objection(self, source: SidecarSource) -> str:
        """Why a source that answers does not count, in words; "" where it does, or nothing is chosen yet."""
        if source.answer is None or self.name is None or source.answer.cluster == self.name:
            return ""
        why = "insists on" if self.insisted else "calls the workers of"
        return f"it is of cluster {source.answer.cluster[:_SHOWN]!r}, and this pool {why} {self.name[:_SHOWN]!r}"
