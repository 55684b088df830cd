"""Verbs
-----

What qmr can be asked: one file a family, and one table of all, the same for every front.
"""
