"""The REPL
--------
"""
