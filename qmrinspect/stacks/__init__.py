"""Who called
----------

From the registers and the top of a thread's stack to the functions that it is in, by name:
the code that a process runs, its call frames, and what its functions are called.
"""
