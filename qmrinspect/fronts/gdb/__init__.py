"""Inside GDB
----------

The only package that imports ``gdb``.  It runs on the Python of any GDB from 3.9
on, with the standard library alone.
"""
