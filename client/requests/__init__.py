"""One request from its beginning to its one answer: a machine without input and output, and a thin shell for each
kind of pool.
"""
