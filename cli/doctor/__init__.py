"""``rumormill doctor``: what is wrong with the sidecar of this machine, and what to do about it.

Each check is one small file: a function from :class:`~rumormill.cli.doctor.facts.Facts` to findings. checks.py lists
them. A check changes nothing, sends at most a few datagrams, and ends within seconds.
"""
