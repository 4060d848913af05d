"""What a process run_queue_wait for a processor, as the kernel counts it."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from limits import LIVENESS_LIMIT

from rumormill.cli.demo.scheduling_delay import SchedulingDelay, run_queue_wait

SPIN = "import os; os.sched_setaffinity(0, {%d}); print(flush=True)\nwhile True: pass"


def test_a_process_that_has_to_share_its_processor_has_waited() -> None:
    processor = min(os.sched_getaffinity(0))
    both = [
        subprocess.Popen([sys.executable, "-c", SPIN % processor], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    try:
        for one in both:
            assert one.stdout is not None
            one.stdout.readline()
        scheduling_delay = SchedulingDelay.from_now([both[0].pid])
        deadline = time.monotonic() + LIVENESS_LIMIT
        while scheduling_delay.seconds([both[0].pid]) < 0.2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert scheduling_delay.seconds([one.pid for one in both]) >= 0.2, (
            "one that has started since counts from its start"
        )
    finally:
        for one in both:
            one.kill()
            one.communicate()


def test_nobody_has_waited_where_nobody_knows() -> None:
    assert run_queue_wait(2**22 + 1) == 0.0
    assert SchedulingDelay.from_now([2**22 + 1]).seconds([]) >= 0.0
