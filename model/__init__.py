"""A small model of the merge, the votes and the names, explored to the end by spin, and checked against the real code.

rules.h holds the rules. The models (merge.pml, members.pml, names.pml) explore every course that they allow. trace.py
takes down the decisions of the real code in stories of the lab, and check_trace.c compares each with the same rules.
``make model`` does all of it.
"""

__all__: tuple[str, ...] = ()
