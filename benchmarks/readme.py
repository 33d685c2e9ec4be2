"""``python -m benchmarks.readme``: puts the committed result tables into README.md.

A table stands between ``<!-- docs/results/NAME.md -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
SECTION = re.compile(r"(<!-- (docs/results/[\w-]+\.md) -->\n).*?(<!-- end -->)", re.DOTALL)


def refreshed(text: str) -> str:
    """The text with every marked section as its result file has it."""
    return SECTION.sub(
        lambda match: f"{match[1]}\n{(ROOT / match[2]).read_text().strip()}\n\n{match[3]}", text
    )


if __name__ == "__main__":
    README.write_text(refreshed(README.read_text()))
