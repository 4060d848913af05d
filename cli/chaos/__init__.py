"""Breaks a pool of real processes on purpose, under real traffic, and judges what callers noticed.

A schedule (schedule.py) says what happens when. Faults on processes of this machine are in local_faults.py; faults on
other hosts are the user's own commands (command_faults.py). What outlives this process is written to a journal before
it is done (journal.py), so that it is undone even after a kill -9. The traffic is the demo's open-loop caller or a
command (traffic.py). objectives.py judges, page.py draws, and run.py keeps the order of things.

This file re-exports nothing: `chaos undo` needs only the journal.
"""

__all__: tuple[str, ...] = ()
