"""``rumormill replay``: plays records of one incident again, as a check, as a story and as a page.

The verb is in command.py. What is about one member is chosen in about_member.py, and page.py draws it.
"""
