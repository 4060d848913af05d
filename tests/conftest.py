"""What holds for every test."""

from hypothesis import settings

# An example's wall time says how busy the machine is, and nothing of the code: benches measure that, alternately with
# a peer's.
settings.register_profile("rumormill", deadline=None)
settings.load_profile("rumormill")
