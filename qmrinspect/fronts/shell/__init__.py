"""The command line
----------------
"""
