"""The hunt
--------

Plug a device, unplug it, and judge by the memory of the process what remained.
"""
