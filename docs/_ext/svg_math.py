"""Sphinx draws formulas as SVG while the site is built: no TeX, no script, no network for whoever reads it.

The formula's TeX stays in the page as the picture's alternative text.
"""

from __future__ import annotations

import html
import re
from functools import cache
from typing import Any

import ziamath
from docutils import nodes
from sphinx.application import Sphinx
from ziamath.tex import tex2mml

_EM = 24.0  # ziamath draws at this size; the page scales pictures to its own letters
_TALLEST = 20.0
_SYMBOLS = 0


@cache
def _drawing(tex: str, is_inline: bool) -> tuple[str, float, float, float]:
    """(SVG, width, height, depth below the base line), lengths in em."""
    mathml = tex2mml(tex, inline=is_inline).replace("<math ", '<math mathcolor="currentColor" ', 1)
    mathml = re.sub(r'<mtable(?![^>]*rowspacing)|rowspacing="[^"]*"', _roomier, mathml)
    svg = ziamath.Math(mathml, size=_EM).svg()
    box = re.search(r'viewBox="([-\d. e]+)"', svg)
    assert box is not None
    _, top, width, height = map(float, box[1].split())
    if height > _TALLEST * _EM:  # \left( around a sum is drawn without end
        raise ValueError(f"The formula is {height / _EM:.0f} em high; use \\Bigl and \\Bigr: {tex}")
    return svg, width / _EM, height / _EM, (top + height) / _EM


def _roomier(found: re.Match[str]) -> str:
    """Rows of formulas need room for their fractions."""
    return found[0] + ' rowspacing="0.9em"' if found[0] == "<mtable" else 'rowspacing="0.9em"'


def _element(tex: str, is_inline: bool) -> str:
    global _SYMBOLS
    svg, width, height, depth = _drawing(tex, is_inline)
    # Ids must be unique in a page, and every drawing has symbols of its own.
    _SYMBOLS += 1
    svg = re.sub(r'(<symbol id="|href="#)', rf"\g<1>m{_SYMBOLS}-", svg)
    style = f"width:{width:.4g}em;height:{height:.4g}em"
    if is_inline:
        style += f";vertical-align:{-depth:.4g}em"
    label = html.escape(" ".join(tex.split()), quote=True)
    return re.sub(
        r'<svg ([^>]*?)width="[^"]*" height="[^"]*"',
        rf'<svg \1role="img" aria-label="{label}" style="{style}"'.replace("\\", "\\\\").replace("\\\\1", "\\1"),
        svg,
        count=1,
    )


def _visit_inline(self: Any, node: nodes.math) -> None:
    following = node.parent[node.parent.index(node) + 1 :]
    joined = following and following[0].astext()[:1] in {".", ",", ";", ":", ")"}
    # A word joiner: no line begins with the full stop behind a formula.
    self.body.append(f'<span class="math">{_element(node.astext(), True)}</span>{"&#8288;" if joined else ""}')
    raise nodes.SkipNode


def _visit_block(self: Any, node: nodes.math_block) -> None:
    tex = node.astext().strip()
    if "\\\\" in tex and "\\begin" not in tex:
        tex = f"\\begin{{aligned}}{tex}\\end{{aligned}}"
    self.body.append(self.starttag(node, "div", CLASS="math-block"))
    if node.get("number"):
        self.body.append(f'<span class="eqno">({node["number"]})</span>')
    self.body.append(f"{_element(tex, False)}</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("svg", (_visit_inline, None), (_visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": False}
