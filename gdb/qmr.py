"""qmr inside GDB: ``source`` this file, then ``help qmr``."""

import importlib.util
import os
import sys

# The package lies beside this directory in a checkout, and around it when installed.  It is
# loaded by its place: what else is installed there stays out of this Python's sight.
# (__file__ is another script's, where that one sources this.)
_here = os.path.dirname(os.path.realpath(sys._getframe().f_code.co_filename))
for _place in (os.path.join(os.path.dirname(_here), "qmrinspect"), os.path.dirname(_here)):
    _init = os.path.join(_place, "__init__.py")
    if os.path.basename(_place) == "qmrinspect" and os.path.isfile(_init):
        break
else:
    raise ImportError(f"there is no package qmrinspect around {_here}")
if "qmrinspect" not in sys.modules:
    _spec = importlib.util.spec_from_file_location(
        "qmrinspect", _init, submodule_search_locations=[_place]
    )
    sys.modules["qmrinspect"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["qmrinspect"])

from qmrinspect.fronts.gdb import start  # noqa: E402

start.register()
