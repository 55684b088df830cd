"""``python -m qmrinspect``: the command line."""

import sys

from .fronts.shell.entry import main

sys.exit(main())
