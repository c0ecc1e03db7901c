"""`{command-help} train` shows what `fmfast train --help` prints."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx


class CommandHelp(Directive):
    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        command = [sys.executable, "-m", "fmfast", *self.arguments, "--help"]
        # As wide as the page, wherever it is built.
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"COLUMNS": "95"},
        )
        return [
            nodes.literal_block(
                done.stdout, done.stdout, language="text", classes=["command-help"]
            )
        ]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
