"""A browser for the pages: Chromium without a window and without a network."""

from __future__ import annotations

import subprocess
import tempfile

__all__ = ["MEASURE", "chromium"]

#: Makes the title of a page JSON of its pictures, by their section: how many boxes and arrows
#: there are, whether all is inside what it belongs to, and whether labels are clear of boxes
#: and lines.
MEASURE = """<script>addEventListener('load', () => {
  const seen = {};
  const rect = node => node.getBoundingClientRect();
  const inside = (a, b) => a.left >= b.left - 1 && a.top >= b.top - 1 &&
    a.right <= b.right + 1 && a.bottom <= b.bottom + 1;
  const apart = (a, b) => a.right < b.left || b.right < a.left || a.bottom < b.top ||
    b.bottom < a.top;
  const clear = (label, path) => {
    const a = rect(label), to = path.getScreenCTM(), all = path.getTotalLength();
    for (let at = 0; at <= all; at += 2) {
      const p = path.getPointAtLength(at).matrixTransform(to);
      if (p.x > a.left + 2 && p.x < a.right - 2 && p.y > a.top + 2 && p.y < a.bottom - 2)
        return false;
    }
    return true;
  };
  for (const s of document.querySelectorAll('svg.graph')) {
    const boxes = [...s.querySelectorAll('.box')], shape = box => rect(box.querySelector('rect'));
    const labels = [...s.querySelectorAll('.arrow text')];
    const paths = [...s.querySelectorAll('.arrow path')];
    seen[s.closest('section').id] = [boxes.length, paths.length,
      boxes.every(box => inside(shape(box), rect(s)) &&
        [...box.querySelectorAll('text')].every(text => inside(rect(text), shape(box)))) &&
        labels.every(label => inside(rect(label), rect(s))),
      labels.every(label => boxes.every(box => apart(rect(label), shape(box))) &&
        paths.every(path => clear(label, path)))];
  }
  document.title = JSON.stringify(seen);
})</script></body>"""


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
            timeout=200,
        )
    assert done.returncode == 0, done.stderr
    return done.stdout
