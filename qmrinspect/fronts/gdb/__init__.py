"""Inside GDB
----------

The only package that imports ``gdb``, beside :mod:`qmrinspect.layout.gdb_types`.
It runs on the Python of any GDB from 3.9 on, with the standard library alone.
"""
