"""Tells systemd how the agent is, by the protocol of sd_notify(3).

A message is one datagram of lines ``NAME=value`` to the socket that ``NOTIFY_SOCKET`` names: a path, or a name in the
abstract namespace after ``@``. Without that variable nothing here runs. Messages are lost rather than awaited: a
service manager that does not read must not hold up gossip.

``READY=1`` says that callers may be sent here. ``WATCHDOG=1`` says that the gossip loop has turned since the last one,
so an agent whose loop hangs is killed and started again.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import socket
from collections.abc import Callable, MutableMapping

import trio

from rumormill.discovery.commands import Status

LOOK_SECONDS = 1.0
"""Seconds between two looks at the agent's state, at most."""
ALONE_SECONDS = 30.0
"""A member whose worker is ready, and that finds no other member, counts as started after this time: the others may be
down, and a unit that is started forever helps nobody."""


class ServiceManager:
    """Reports to the service manager that has started the agent, if it wants reports."""

    def __init__(
        self, address: str, watchdog: float | None, status: Callable[[], Status], turns: Callable[[], int]
    ) -> None:
        """``address`` is empty if nobody wants reports. ``watchdog`` is the longest silence in seconds that is borne;
        None if nobody watches. ``turns`` counts the turns of the gossip loop."""
        self._address = address
        self._watchdog = watchdog
        self._status = status
        self._turns = turns

    @classmethod
    def of(
        cls, environment: MutableMapping[str, str], status: Callable[[], Status], turns: Callable[[], int]
    ) -> ServiceManager:
        """Take the variables of the protocol out of the environment: children must not speak for the agent."""
        name = environment.pop("NOTIFY_SOCKET", "")
        microseconds = environment.pop("WATCHDOG_USEC", "")
        watched = environment.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        address = "\0" + name[1:] if name.startswith("@") else name
        if not (watched and microseconds.isascii() and microseconds.isdigit() and int(microseconds)):
            return cls(address, None, status, turns)
        faulthandler.enable(file=2)  # the watchdog's SIGABRT then shows in the log where the agent hung
        return cls(address, int(microseconds) / 1e6, status, turns)

    async def run(self) -> None:
        """Report until cancelled."""
        if not self._address:
            return
        begun, told, ready, seen = trio.current_time(), "", False, -1
        while True:
            now = self._status()
            if not ready and not now.unready and (now.joined or trio.current_time() - begun >= ALONE_SECONDS):
                ready = True
                self._send("READY=1")
            if (text := state_line(now)) != told:
                told = text
                self._send(f"STATUS={text}")
            if self._watchdog and self._turns() != seen:
                seen = self._turns()
                self._send("WATCHDOG=1")
            await trio.sleep(min(LOOK_SECONDS, self._watchdog / 3) if self._watchdog else LOOK_SECONDS)

    def stopping(self, seconds: float) -> None:
        """The agent drains and leaves, and needs so many seconds at most."""
        self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def _send(self, message: str) -> None:
        if self._address:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.sendto(message.encode(), self._address)


def state_line(status: Status) -> str:
    """One line for ``systemctl status``."""
    worker = f"not ready: {status.unready}" if status.unready else f"the worker is {status.readiness}"
    return " ".join(f"{worker}; {status.connectivity}; {status.peers} other members alive".split())
