"""qmr inside GDB: ``source`` this file, then ``help qmr``."""

import os
import sys

# The package lies beside this file in a checkout, and around it when installed.
_here = os.path.dirname(os.path.realpath(__file__))
for _place in (os.path.dirname(_here), os.path.dirname(os.path.dirname(_here))):
    if os.path.isdir(os.path.join(_place, "qmrinspect")):
        if _place not in sys.path:
            sys.path.insert(0, _place)
        break

from qmrinspect.fronts import ingdb  # noqa: E402

ingdb.register()
