"""``python -m qmrinspect``: the command line."""

import sys

from .fronts.shell.cli import main

sys.exit(main())
