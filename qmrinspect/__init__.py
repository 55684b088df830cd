"""qmr: see which field holds each reference of each QOM object in a running QEMU."""

__version__ = "0.2.0"
