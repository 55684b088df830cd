"""Searching
---------

What is looked for in the memory of a reading: callbacks that outlive what they need, who
points to an address, what it belongs to, and what has a name.
"""
