"""Searching
---------

What is looked for in the memory of a reading when somebody asks: what an address belongs to,
and what has a name.
"""
