"""A browser for the pages: Chromium without a window and without a network."""

from __future__ import annotations

import subprocess
import tempfile

__all__ = ["chromium"]


def chromium(*words: str) -> str:
    """Run Chromium with more options and a URL, and return what it prints."""
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run(
            [
                *("chromium", "--headless", "--no-sandbox", "--disable-gpu"),
                *("--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND"),
                *(f"--user-data-dir={profile}", *words),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=50,
        )
    assert done.returncode == 0, done.stderr
    return done.stdout
