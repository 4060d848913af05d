"""The verbs. Each is a thin thing: read the flags, ask a sidecar (or run one), show the answer, end with a code.

Nothing stands here that another program would want to import: that is in the other rooms. Every verb says in its help
how it is used; every reading verb speaks JSON with ``-o json``; what goes wrong is one line with a hint on stderr.
``demo/`` is the demonstration and its worker program.
"""
