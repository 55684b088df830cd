"""Puts ``gdb/qmr.py`` into the wheel, as ``qmrinspect/gdb_script/qmr.py``."""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class GdbScriptHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        # An editable install would get a copy that goes stale, in a directory
        # that hides the package.
        if version != "editable":
            build_data["force_include"]["gdb/qmr.py"] = "qmrinspect/gdb_script/qmr.py"
