"""The sockets of the agent check and of DNS: free ports, taken ports, and a library that is not there."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rumormill.sidecar.errors import BindError, SettingsError
from rumormill.sidecar.format_listeners import FormatListeners
from rumormill.sidecar.settings_sources import load

ENOUGH = {"name": "w1", "cluster": "t", "service": "embed", "worker": "http://127.0.0.1:1", "insecure-plaintext": True}


async def opened(**flags: str) -> FormatListeners:
    return await FormatListeners.open(
        load({**ENOUGH, **{key.replace("_", "-"): value for key, value in flags.items()}}, {})
    )


async def close(listeners: FormatListeners) -> None:
    for listener in (*listeners.agent, *listeners.dns_tcp):
        await listener.aclose()
    if listeners.dns_udp is not None:
        listeners.dns_udp.close()


async def test_nothing_is_open_unless_a_setting_says_so() -> None:
    listeners = await opened()
    assert (listeners.agent, listeners.dns_udp, listeners.dns_tcp, listeners.addresses) == ([], None, [], {})


async def test_dns_has_one_port_for_udp_and_tcp_and_a_taken_port_is_said() -> None:
    first = await opened(dns="127.0.0.1:0", haproxy_agent="127.0.0.1:0")
    assert first.dns_udp is not None
    assert first.addresses["dns"] == f"127.0.0.1:{first.dns_udp.getsockname()[1]}"
    for flag in ("dns", "haproxy_agent"):
        with pytest.raises(BindError, match=f"cannot listen on --{flag.replace('_', '-')}"):
            await opened(**{flag: first.addresses[flag]})
    await close(first)


async def test_dns_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dns.message", None)
    with pytest.raises(SettingsError, match="needs dnspython") as refused:
        await opened(dns="127.0.0.1:0")
    assert "rumormill[dns]" in refused.value.hint


@pytest.mark.parametrize("domain", ["", "a..b", "-a", "a b", "x" * 64, "a." * 60])
def test_what_is_no_domain_is_refused(domain: str) -> None:
    with pytest.raises(SettingsError):
        load({**ENOUGH, "dns-domain": domain}, {})


def test_the_agent_loads_no_dnspython_unless_it_answers_dns() -> None:
    program = "import sys, rumormill.sidecar.agent; print('dns.message' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "False"
