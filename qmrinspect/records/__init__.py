"""Records
-------

What an image and a layout give to read with: a structure's fields, lists, GLib's tables,
words in memory, and the ways that lead through them.
"""
