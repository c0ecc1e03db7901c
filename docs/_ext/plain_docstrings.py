"""Docstrings are written for `help()`: formulas in ASCII, single backticks. Here they become RST.

An indented block after an empty line is a formula, and shown as it stands; `*`, `|` and trailing
underscores of names like w0_ mean themselves. Examples and the headers of numpydoc sections are
left to numpydoc.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

_CODE = re.compile(r"(`[^`]+`)")
_UNDERLINE = re.compile(r"-{3,}$")
_MEMBER = re.compile(
    r"[*\w, ]+( : .*)?$"
)  # the header of a parameter, at the left margin of a section


def as_rst(lines: list[str]) -> list[str]:
    """The lines of a docstring with what RST would misunderstand escaped."""
    out: list[str] = []
    section = ""
    before = 0  # indentation of the last line of text
    was_blank, in_example, literal = True, False, None
    for i, line in enumerate(lines):
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        if not text:
            out.append(line)
            was_blank, in_example = True, False
            continue
        if text.startswith(">>>"):
            in_example = True
        if in_example:
            out.append(line)
        elif literal is not None and indent >= literal:
            out.append("   " + line)
            was_blank = False
            continue
        elif was_blank and out and indent > before and section != "Examples":
            out += [" " * before + ".. code-block:: text", "", "   " + line]
            literal, was_blank = indent, False
            continue
        else:
            literal = None
            followed = i + 1 < len(lines) and _UNDERLINE.match(lines[i + 1].strip())
            if followed and indent == 0:
                section = text
            is_header = followed or _UNDERLINE.match(text)
            in_members = section not in ("", "Notes", "Examples") and indent == 0
            if is_header:
                out.append(line)
            elif in_members and _MEMBER.match(text):
                name, colon, kind = line.partition(" : ")  # numpydoc sees to the name
                out.append(name + colon + _escaped(kind))
            else:
                out.append(_escaped(line))
        before, was_blank = indent, False
    return out


def _escaped(line: str) -> str:
    parts = _CODE.split(line)
    for i in range(0, len(parts), 2):
        emphasized = re.split(r"(?<!\w)(\*\w[\w ]*\*)(?!\w)", parts[i])
        emphasized[::2] = [re.sub(r"([*|\\])", r"\\\1", part) for part in emphasized[::2]]
        parts[i] = "".join(emphasized)
        parts[i] = re.sub(r"(?<=\w)_(?!\w)", r"\\_", parts[i])
    return "".join(parts)


def _process(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    lines[:] = as_rst(lines)


def _skip(
    app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any
) -> bool | None:
    """The fields of named tuples are documented under their class, and not one by one."""
    return (
        True
        if str(getattr(obj, "__doc__", "")).startswith("Alias for field number")
        else None
    )


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-skip-member", _skip)
    app.connect(
        "autodoc-process-docstring", _process, priority=100
    )  # numpydoc comes at 500
    return {"parallel_read_safe": True, "parallel_write_safe": True}
