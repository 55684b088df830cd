"""Hotplug
-------

A QEMU of our own, the recipes of devices, and one plug/unplug cycle.
"""
