"""``python -m qmrinspect``: the command line."""

from .fronts.shell.entry import main

main()
