"""Long answers
------------
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess

__all__ = ["page"]


def page(text: str) -> None:
    """Show a text in the user's pager; one that fails is none."""
    named = os.environ.get("QMR_PAGER") or os.environ.get("PAGER")
    words = shlex.split(named) if named else ["less"]
    if shutil.which(words[0]) is None:
        print(text)
        return
    # Colours are all that a text has left, so that raw ones may pass.
    env = {"LESS": "-RS", **os.environ}
    if os.path.basename(words[0]) == "less":
        words.append("-R")
    with contextlib.suppress(OSError):
        subprocess.run(words, input=text.encode("utf-8", "replace") + b"\n", env=env, check=False)
