"""Pages
-----

HTML that needs no network, with its pictures.
"""
