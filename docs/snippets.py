"""Runs the code of a page of the documentation, and compares what it prints with the page.

    ```python       run in order, in one namespace per page
    ```sh           run by bash, in the same directory as the page's other code
    ```output       what the block before must have printed; `...` stands for anything, and numbers
                    with a fraction, or in percent, may differ by 2 of their last digit, or by 3%

A block after the comment `<!-- not run: reason -->` is shown only; one after
`<!-- needs: module -->` runs where that module is installed. `python docs/snippets.py PAGE...` runs
pages by hand; the tests run all of them, and the site makes its pictures with it.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

_FENCE = re.compile(
    r"(?:<!-- (?:(?P<skip>not run): [^>]+|needs: (?P<module>\w+)) -->\n+)?"
    r"^(?P<indent> *)```(?P<language>\w+)\n(?P<code>.*?)^(?P=indent)```$",
    re.M | re.S,
)
_INEXACT = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+%?|%)(?![\w.])")
_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    code: str
    line: int  # of the fence, from 1
    is_run: bool


def pages(docs: Path) -> list[Path]:
    """All pages of the documentation."""
    return sorted(
        path
        for path in docs.rglob("*.md")
        if not {"_build", "generated"} & set(path.relative_to(docs).parts)
    )


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page with a language, in order."""
    text = page.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        line = text.count("\n", 0, found.start("language")) + 1
        code = re.sub(f"^{found['indent']}", "", found["code"], flags=re.M)
        is_run = found["skip"] is None and (
            found["module"] is None or find_spec(found["module"]) is not None
        )
        yield Block(found["language"], code, line, is_run)


def run(page: Path, directory: Path) -> int:
    """Run a page's code in a directory; returns how many blocks, raises where the page is wrong."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    printed, was_run, n_run = None, True, 0
    before = os.getcwd()
    os.environ.setdefault("MPLBACKEND", "Agg")
    os.chdir(directory)
    try:
        for block in blocks(page):
            where = f"{page.name}, line {block.line}"
            if block.language == "output":
                if was_run:
                    if printed is None:
                        raise AssertionError(
                            f"{where}: there is no code before this output."
                        )
                    _compare(block.code, printed, where)
                printed = None
            elif block.language in ("python", "sh") and block.is_run:
                run_block = _run_python if block.language == "python" else _run_shell
                printed = run_block(block, namespace, where)
                was_run = True
                n_run += 1
            else:
                printed, was_run = None, False
    finally:
        os.chdir(before)
    return n_run


def _run_python(block: Block, namespace: dict[str, Any], where: str) -> str:
    out = io.StringIO()
    code = "\n" * block.line + block.code  # so that tracebacks name the line of the page
    with contextlib.redirect_stdout(out):
        exec(compile(code, where.partition(",")[0], "exec"), namespace)
    return out.getvalue()


def _run_shell(block: Block, namespace: dict[str, Any], where: str) -> str:
    environment = os.environ | {
        "PATH": os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.code],
        capture_output=True,
        text=True,
        env=environment,
    )
    if done.returncode:
        raise AssertionError(f"{where}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


def _compare(expected: str, printed: str, where: str) -> None:
    checker = doctest.OutputChecker()
    if not checker.check_output(expected, _with_numbers_of(expected, printed), _FLAGS):
        example = doctest.Example("", expected)
        raise AssertionError(
            f"{where}:\n{checker.output_difference(example, printed, _FLAGS)}"
        )


def _with_numbers_of(expected: str, printed: str) -> str:
    """What was printed, with the numbers that are expected where they are close enough.

    Kernels for another instruction set add up in another order, which training makes visible.
    """
    wanted = iter(_INEXACT.findall(expected))
    if len(_INEXACT.findall(expected)) != len(_INEXACT.findall(printed)):
        return printed

    def close(found: re.Match[str]) -> str:
        number, shown = next(wanted), found[0]
        last_digit = 10.0 ** -len(number.rstrip("%").partition(".")[2])
        a, b = float(number.rstrip("%")), float(shown.rstrip("%"))
        same_kind = number.endswith("%") == shown.endswith("%")
        return (
            number
            if same_kind and abs(a - b) <= max(2.001 * last_digit, 0.03 * abs(a))
            else shown
        )

    return _INEXACT.sub(close, printed)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as scratch:
            print(f"{name}: {run(Path(name).resolve(), Path(scratch))} blocks")
