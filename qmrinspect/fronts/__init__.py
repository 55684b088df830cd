"""Fronts
------

The same verbs inside GDB, on the command line and in the REPL.
"""
