"""Monitor
-------

QEMU's machine protocol (QMP): where a monitor is, and how to speak with it.
"""
