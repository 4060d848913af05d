"""Chooses the cluster of a pool whose sources belong to several: requests must not cross clusters. Pure.

The rules:

- `cluster=` requires one.
- Otherwise one is chosen, and stays while the pool is open: the cluster of most sources, and in a tie the one whose
  source is listed first. So all callers with the same sources choose the same cluster, in whatever order these answer.
- It is chosen as soon as no source that is still to answer could change the result, or when the time for that is over.
- A source of another cluster is still asked, because it may come back as one of the chosen cluster. Until then it has
  no vote, and an error names its cluster.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rumormill.client.discovery.topology import NOT_ASKED, SidecarSource

_SHOWN = 64
"""Characters of a foreign cluster label that are shown to people."""


class ClusterChoice:
    """The cluster of one pool."""

    def __init__(self, required: str | None) -> None:
        self._is_required = required is not None
        self.name = required
        """None until it is chosen."""

    def choose(self, sources: Sequence[SidecarSource], *, timed_out: bool) -> None:
        """Choose if it is time. `timed_out` says that sources without an answer so far are not waited for."""
        answered = [s.answer.cluster for s in sources if s.answering and s.answer is not None]
        if self.name is not None or not answered:
            return
        # In a tie, `most_common` puts the one first that it met first, which is the one listed first.
        (leader, votes), *others = Counter(answered).most_common()
        unanswered = sum(not s.answering and s.trouble == NOT_ASKED for s in sources)
        rival = unanswered + (others[0][1] if others else 0)
        first = sources[0].answer
        safe = votes > rival or (votes == rival and first is not None and first.cluster == leader)
        if timed_out or not unanswered or safe:
            self.name = leader

    def members(self, sources: Sequence[SidecarSource]) -> list[SidecarSource]:
        """The sources of the chosen cluster; none before there is a choice."""
        return [s for s in sources if s.answer is not None and s.answer.cluster == self.name]

    def rejection_reason(self, source: SidecarSource) -> str:
        """Why a source that answers is not used, for people; "" if it is used, or no cluster is chosen yet."""
        if source.answer is None or self.name is None or source.answer.cluster == self.name:
            return ""
        why = "requires" if self._is_required else "has chosen"
        return f"it is of cluster {source.answer.cluster[:_SHOWN]!r}, and this pool {why} {self.name[:_SHOWN]!r}"
