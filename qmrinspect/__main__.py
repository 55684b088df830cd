"""``python -m qmrinspect``: the command line."""

import sys

from .fronts.cli import main

sys.exit(main())
