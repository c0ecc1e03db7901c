"""Pictures of pages are made by the code that stands on them, while the site is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import snippets


def _make(app: Sphinx) -> None:
    docs = Path(app.srcdir)
    for page in snippets.pages(docs):
        if "generated/" in page.read_text(encoding="utf-8"):
            directory = docs / "generated" / page.stem
            directory.mkdir(parents=True, exist_ok=True)
            newest = max(
                (path.stat().st_mtime for path in directory.glob("*.png")), default=0.0
            )
            if newest < page.stat().st_mtime:
                snippets.run(page, directory)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", _make)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
