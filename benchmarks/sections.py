"""Tables of results in README.md and docs/.

A table stands there between ``<!-- docs/results/NAME.md -->`` and ``<!-- end -->``. A command
that writes such a table calls `refresh`, so that the pages do not differ from the results.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
SECTION = re.compile(r"(<!-- (docs/results/[\w-]+\.md) -->\n).*?(<!-- end -->)", re.DOTALL)


def refreshed(text: str) -> str:
    """The text with every marked section as its result file has it."""
    return SECTION.sub(
        lambda match: f"{match[1]}\n{(ROOT / match[2]).read_text().strip()}\n\n{match[3]}", text
    )


def refresh(folder: Path) -> None:
    """Puts the tables into the pages, where the folder is the one that they are of."""
    if folder.resolve() == RESULTS:
        for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
            page.write_text(refreshed(page.read_text()))
