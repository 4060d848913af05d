"""Everything fails, or only seems to: ``python -m bench.outages`` (six minutes).

- dead: all workers and sidecars are killed. - 503: all workers answer 503. How often is each request tried?
- sidecars: all sidecars are dead for a minute.
- cut: the caller is cut from all sidecars for a minute, in which two of three workers die and two others join.
- busy: 100 requests at once for three workers that take one at a time, and answer nothing else meanwhile.
- stopped: the same, and one worker is stopped for good with its sidecar.

`cut` drops packets in a network namespace of its own, as root. `--long 10` gives `busy` and `stopped` requests of 10 s,
in 15 minutes.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import click
import trio

from bench.fault_pool import PATIENCE, fault_settings, received, tell, through_pool, until_all_pass
from bench.open_loop import OpenLoop, Sent, figures
from rumormill.cli.demo.processes import LocalPool
from rumormill.client import Pool
from rumormill.client.rules.replay import Replay

RATE = 100.0
WELL, OUTAGE, MINUTE = 5.0, 20.0, 60.0
AT_ONCE = 100
HEAL_LIMIT = 60.0


async def dead(pool: LocalPool, _: float) -> str:
    """All workers and sidecars are killed."""

    async def kill() -> None:
        for member in pool:
            member.kill()

    return await _nobody_left(pool, kill)


async def all_503(pool: LocalPool, _: float) -> str:
    """All workers answer 503."""

    async def refuse() -> None:
        for member in pool:
            await tell(member, "unavailable", health=True)

    said = await _nobody_left(pool, refuse)
    return f"{said}; {sum([len(await received(member)) for member in pool])} POSTs came to workers in all"


async def _nobody_left(pool: LocalPool, fail: Callable[[], Awaitable[None]]) -> str:
    async with through_pool(pool) as (_, http):
        load = OpenLoop(http, RATE)
        await load.run(WELL)
        await fail()
        begun = time.monotonic()
        await load.run(OUTAGE)
    hit = [one for one in load.requests if one.due >= begun]
    found = figures(hit)
    kinds = Counter(one.trouble.partition(":")[0] for one in hit if one.trouble)
    return (
        f"{found.requests} requests, {sum(one.attempts for one in hit) / len(hit):.2f} attempts each; "
        f"told within {found.slowest:.2f} s (p50 {found.p50:.3f} s) of {PATIENCE:.0f} s: "
        f"{', '.join(f'{count} x {kind}' for kind, count in kinds.most_common())}"
    )


async def sidecars(pool: LocalPool, _: float) -> str:
    """All sidecars are dead for a minute."""
    async with through_pool(pool) as (_pool, http), trio.open_nursery() as nursery:
        load = OpenLoop(http, RATE)
        nursery.start_soon(load.run, WELL + MINUTE + WELL)
        await trio.sleep(WELL)
        for member in pool:
            member.sidecar.signal(signal.SIGKILL)
        await trio.sleep(MINUTE)
        for member in pool:
            member.start_sidecar()
    return _plain(load.requests)


async def cut(pool: LocalPool, _: float) -> str:
    """The caller is cut from all sidecars while workers move. Runs in a network namespace of its own."""
    _nft("table inet cut { chain input { type filter hook input priority 0; }; }")
    ports = ", ".join(member.url.rpartition(":")[2] for member in pool)
    async with through_pool(pool) as (ours, http), trio.open_nursery() as nursery:
        load = OpenLoop(http, RATE)
        nursery.start_soon(load.run, WELL + MINUTE + WELL)
        await trio.sleep(WELL)
        _nft(*(f"add rule inet cut input tcp {way} {{ {ports} }} drop" for way in ("sport", "dport")))
        await trio.sleep(MINUTE / 4)
        for name in ("w1", "w2"):
            pool[name].kill()
        for name in ("w4", "w5"):
            pool[name].start()
        await trio.sleep(MINUTE * 3 / 4)
        before = sorted(worker.name for worker in ours.workers)
        _nft("flush chain inet cut input")
        right = await _until_known(ours, {"w3", "w4", "w5"})
    return f"{_plain(load.requests)}; knew {', '.join(before)} until the cut healed, and who is right {right} later"


def _nft(*commands: str) -> None:
    subprocess.run(["nft", "-f", "-"], input="\n".join([*commands, ""]).encode(), check=True)


async def _until_known(ours: Pool, names: set[str]) -> str:
    healed = time.monotonic()
    with trio.move_on_after(HEAL_LIMIT):
        while {worker.name for worker in ours.workers} != names:
            await ours.changed(ours.topology)
        return f"{time.monotonic() - healed:.2f} s"
    return f"not within {HEAL_LIMIT:.0f} s"


async def busy(pool: LocalPool, long: float) -> str:
    """More requests than workers that take one at a time. Nothing may be sent again, so an aborted one fails."""
    return await _all_at_once(pool, "never", long, stop=False)


async def stopped(pool: LocalPool, long: float) -> str:
    """The same, and one worker is stopped for good. Everything may be sent again."""
    return await _all_at_once(pool, "always", long, stop=True)


async def _all_at_once(pool: LocalPool, replay: Replay, long: float, *, stop: bool) -> str:
    async with through_pool(pool, replay, patience=None) as (_, http), trio.open_nursery() as nursery:
        load = OpenLoop(http, rate=1000.0)
        nursery.start_soon(load.run, AT_ONCE / load.rate)
        await trio.sleep(3.5 * long)
        if stop:
            pool["w1"].freeze()
    again = sum(one.attempts > 1 for one in load.requests)
    return f"{_plain(load.requests)}; {again} asked more than one worker"


def _plain(requests: list[Sent]) -> str:
    found = figures(requests)
    troubles = "".join(f"; {count} x {text[:150]}" for text, count in found.troubles)
    return f"{found.requests} requests, {found.failed} failed, slowest {found.slowest:.2f} s{troubles}"


CASES: dict[str, Callable[[LocalPool, float], Awaitable[str]]] = {
    "dead": dead,
    "503": all_503,
    "sidecars": sidecars,
    "cut": cut,
    "busy": busy,
    "stopped": stopped,
}


async def _measure(case: str, long: float) -> str:
    single = case in ("busy", "stopped")
    settings = fault_settings(3, long, "--single") if single else fault_settings(5 if case == "cut" else 3)
    with LocalPool(settings) as pool:
        first = list(pool)[:3]
        for member in first:
            member.start()
        await until_all_pass(first, settings.service)
        return await CASES[case](pool, long)


def _in_namespace(case: str) -> str:
    """Run a case in a network namespace that ends with it."""
    own = [sys.executable, "-m", "bench.outages", "--case", case, "--here"]
    command = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *own]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else f"left out: {done.stderr.strip()[-200:]}"


@click.command()
@click.option("--case", type=click.Choice(list(CASES)), multiple=True, default=tuple(CASES), help="Only these.")
@click.option("--long", default=2.0, show_default=True, help="Seconds that a request takes in busy and stopped.")
@click.option("--here", is_flag=True, hidden=True)
def bench(case: tuple[str, ...], long: float, here: bool) -> None:
    """Everything fails, or only seems to."""
    for one in case:
        if one == "cut" and not here:
            click.echo(_in_namespace(one))
        else:
            click.echo(f"{one}: {trio.run(_measure, one, long)}")


def main() -> None:
    bench(args=[], standalone_mode=False)


if __name__ == "__main__":
    sys.exit(bench())
