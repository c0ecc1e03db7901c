"""Sphinx draws formulas as SVG while the site is built: whoever reads it needs no script and no network.

The formula's TeX stays in the page as the picture's label.
"""

from __future__ import annotations

import html
import re
from functools import cache
from itertools import count
from typing import Any

import ziamath
from docutils import nodes
from sphinx.application import Sphinx
from ziamath.tex import tex2mml

_EM = 24.0  # ziamath draws at this size; the page scales pictures to its own letters
_TALLEST = 20.0  # em
_WORD_JOINER = "&#8288;"
_numbers = count()


@cache
def _drawing(tex: str, is_inline: bool) -> tuple[str, str]:
    """(SVG without its size, the style that gives it one in the text)."""
    mathml = tex2mml(tex, inline=is_inline).replace(
        "<math ", '<math mathcolor="currentColor" ', 1
    )
    mathml = re.sub(r'<mtable(?![^>]*rowspacing)|rowspacing="[^"]*"', _roomier, mathml)
    svg = ziamath.Math(mathml, size=_EM).svg()
    box = re.search(r'viewBox="([^"]+)"', svg)
    assert box is not None
    _, top, width, height = (float(number) / _EM for number in box[1].split())
    if height > _TALLEST:  # \left( around a sum is drawn without end
        raise ValueError(f"A formula is {height:.0f} em high; use \\Bigl and \\Bigr: {tex}")
    style = f"width:{width:.4g}em;height:{height:.4g}em"
    if is_inline:
        style += f";vertical-align:{-(top + height):.4g}em"
    return re.sub(r' width="[^"]*" height="[^"]*"', "", svg, count=1), style


def _roomier(found: re.Match[str]) -> str:
    """Rows of formulas need room for their fractions."""
    tag = "<mtable " if found[0] == "<mtable" else ""
    return f'{tag}rowspacing="0.9em"'


def _element(tex: str, is_inline: bool) -> str:
    svg, style = _drawing(tex, is_inline)
    # Ids must be unique in a page, and every drawing has symbols of its own.
    svg = re.sub(r'(<symbol id="|href="#)', rf"\g<1>m{next(_numbers)}-", svg)
    label = html.escape(" ".join(tex.split()))
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" style="{style}" ', 1)


def _visit_inline(self: Any, node: nodes.math) -> None:
    following = node.parent[node.parent.index(node) + 1 :]
    # No line begins with the full stop behind a formula.
    is_joined = following and following[0].astext()[:1] in {".", ",", ";", ":", ")"}
    formula = _element(node.astext(), True)
    self.body.append(
        f'<span class="math">{formula}</span>{_WORD_JOINER if is_joined else ""}'
    )
    raise nodes.SkipNode


def _visit_block(self: Any, node: nodes.math_block) -> None:
    formula = _element(node.astext().strip(), False)
    self.body.append(f"{self.starttag(node, 'div', CLASS='math-block')}{formula}</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("svg", (_visit_inline, None), (_visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": False}
