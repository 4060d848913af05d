"""What holds for every test."""

import signal

from hypothesis import settings

# An example's wall time says how busy the machine is, and nothing of the code: benches measure that, alternately with
# a peer's.
settings.register_profile("rumormill", deadline=None)
settings.load_profile("rumormill")

# A shell has what it starts in the background ignore Ctrl-C, and children inherit that; the tests of Ctrl-C need it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
