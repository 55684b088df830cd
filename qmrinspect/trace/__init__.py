"""Who takes and who drops
-----------------------

Follows the counts of a running QEMU's objects from their birth, without stopping it:
the processor reports every change of a count with the registers and the stack of the
thread that makes it (perf_event_open(2)), and the call stacks are found in the copy
afterwards.  Between two changes the VM runs at its own speed, and when qmr dies the
kernel takes the breakpoints away.
"""
