"""Hotplug
-------

QEMU's monitor, the recipes of devices, and one plug/unplug cycle.
"""
