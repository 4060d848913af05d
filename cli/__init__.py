"""The command line. Each verb reads its flags, asks a sidecar (or runs one), shows the answer, and exits with a code.

Other programs import nothing from here: the work is done in the other packages. Every verb has examples in its --help.
Every verb that reads has JSON output with ``-o json``. An error is one line and a hint on stderr. ``demo/`` holds the
demonstration and its worker program.
"""
