"""Targets
-------

Where bytes come from: a process, a GDB inferior, a core dump, or a fake.  A
target is read once, in one batch, at one instant; what comes back is an
:class:`~qmrinspect.target.image.Image`, and everything after decodes that.
"""
