"""Puts what is made for the wheel into it.

That is ``gdb/qmr.py``, as ``qmrinspect/gdb_script/qmr.py``, and, made from the table of verbs,
completion for bash, zsh and fish and the man pages.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class MadeFilesHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        # An editable install would get a copy that goes stale, in a directory
        # that hides the package.
        if version != "editable":
            build_data["force_include"]["gdb/qmr.py"] = "qmrinspect/gdb_script/qmr.py"
        place = Path(self.directory, "made")
        for name, text in _made(self.root).items():
            path = place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            build_data["shared_data"][str(path)] = name


def _made(root: str) -> dict[str, str]:
    """Return the files under the prefix that the package is installed in."""
    sys.path.insert(0, root)
    try:
        from qmrinspect.fronts.shell import completion, manual
    finally:
        sys.path.remove(root)
    return {
        "share/bash-completion/completions/qmr": completion.bash(),
        "share/zsh/site-functions/_qmr": completion.zsh(),
        "share/fish/vendor_completions.d/qmr.fish": completion.fish(),
        **{f"share/man/man1/{name}": text for name, text in manual.pages().items()},
    }
