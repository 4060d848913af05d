"""The flight recorder: what crosses the boundary of a Node, kept for the last minutes, and played again.

A Node takes bytes and time in and gives bytes and conclusions out, and does nothing else. So a record of what went in
is enough to repeat everything that it concluded, on another machine, with the same code.

tape.py stands at the boundary and notes what crosses it. snapshot.py writes down a Node's state and makes it again.
recorder.py keeps the last minutes in segments. file_format.py is the format of a record; reader.py and player.py read
and play one.

This room knows the protocol core and nothing above it. No group key and no private key is ever in a record.
"""
