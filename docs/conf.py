"""Configuration of the documentation site: `sphinx-build -W -b html docs docs/_build/html`.

The site reads offline: formulas are drawn as SVG while it is built (`_ext/svg_math.py`), and
pictures are made by the code that the pages show (`snippets.py`).
"""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "_ext")]

project = "fmfast"
copyright = "the authors of fmfast, BSD 3-Clause License"
version = release = version_of("fmfast")

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc"]
extensions += ["svg_math", "plain_docstrings", "page_pictures", "command_help"]  # in _ext
myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "generated"]

html_theme = "furo"
html_title = f"fmfast {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "svg"
html_copy_source = False
html_show_sphinx = False

default_role = "py:obj"  # `name` in a docstring is a link where there is such a name

autodoc_member_order = "groupwise"
autodoc_typehints = "none"  # numpydoc docstrings say more
numpydoc_show_class_members = False  # autodoc lists them with their documentation
numpydoc_xref_param_type = False
pygments_style = "friendly"
pygments_dark_style = "monokai"
