"""What the documentation shows runs, and gives what it says; nothing public is missing from it."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import inspect
import re
import sys
from pathlib import Path

import pytest
from repository import ROOT

import fmfast

DOCS = ROOT / "docs"
README = ROOT / "README.md"

if not DOCS.is_dir():
    pytest.skip("the documentation is in a checkout only", allow_module_level=True)

# Modules that users import themselves: what their __all__ names is public.
PUBLIC_MODULES = ["fmfast", *(f"fmfast.{name}" for name in (
    "dask", "datasets", "libfm", "metrics", "numpy_baseline", "plot", "retrieval", "text",
))]  # fmt: skip


def _snippets():
    spec = importlib.util.spec_from_file_location("snippets", DOCS / "snippets.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


snippets = _snippets()


# -- docstrings ------------------------------------------------------------------------------------


def _modules_with_examples():
    package = Path(fmfast.__file__).parent
    for path in sorted(package.rglob("*.py")):
        if re.search(r"^ *>>> ", path.read_text(encoding="utf-8"), re.M):
            name = ".".join(path.relative_to(package.parent).with_suffix("").parts)
            yield name.removesuffix(".__init__")


@pytest.mark.parametrize("module", list(_modules_with_examples()))
def test_examples_of_docstrings(module):
    failed, tried = doctest.testmod(importlib.import_module(module))
    assert tried > 0
    assert failed == 0


@pytest.mark.parametrize(
    "cls",
    [fmfast.FMRegressor, fmfast.FMClassifier, fmfast.BayesianFMRegressor, fmfast.BayesianFMClassifier,
     fmfast.FMRanker, fmfast.FeatureEncoder],
)  # fmt: skip
def test_every_constructor_argument_is_documented(cls):
    documented = {
        name.strip()
        for names in re.findall(r"^ *(\w+(?:, \w+)*) : ", cls.__doc__, re.M)
        for name in names.split(",")
    }
    assert set(cls().get_params()) <= documented


def _public_functions():
    """(name, function) of all that users call."""
    for module in PUBLIC_MODULES:
        for name in importlib.import_module(module).__all__:
            found = getattr(importlib.import_module(module), name)
            if inspect.isfunction(found):
                yield f"{module}.{name}", found
            elif inspect.isclass(found):
                for member in dir(found):
                    method = inspect.unwrap(getattr(found, member)) if member[0] != "_" else None
                    method = getattr(method, "__func__", method)
                    if inspect.isfunction(method) and method.__module__.startswith("fmfast"):
                        yield f"{module}.{name}.{member}", method


@pytest.mark.parametrize(
    ("name", "function"), [pytest.param(*pair, id=pair[0]) for pair in _public_functions()]
)
def test_every_argument_of_public_functions_is_documented(name, function):
    text = inspect.getdoc(function)
    assert not re.search(r"^ *\{\w+\}$", text, re.M), "a shared part was not filled in"
    headers = " ".join(re.findall(r"^ *(\*?\*?\w+(?:, \*?\*?\w+)*)(?: : .*)?$", text, re.M))
    documented = set(re.findall(r"\w+", headers))
    arguments = inspect.signature(function).parameters
    assert set(arguments) - {"self", "cls"} <= documented
    if inspect.signature(function).return_annotation not in ("None", None):
        assert re.search(r"^(Returns|Yields)$", text, re.M)


# -- the site --------------------------------------------------------------------------------------

PAGES = snippets.pages(DOCS)


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(DOCS)) for page in PAGES])
def test_code_of_the_page_runs_and_prints_what_the_page_says(page, tmp_path):
    if "matplotlib" in page.read_text(encoding="utf-8"):
        pytest.importorskip("matplotlib")
    wanted = sum(block.language in ("python", "sh") and block.is_run for block in snippets.blocks(page))
    assert snippets.run(page, tmp_path) == wanted


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("```python\nprint(1 + 1)\n```\n\n```output\n3\n```\n", "line 5"),
        ("```output\n3\n```\n", "no code before"),
        ("```sh\nfalse\n```\n", "exit code 1"),
        ("text\n\n```python\nraise ValueError('as it should')\n```\n", "as it should"),
    ],
)
def test_wrong_pages_are_found(page, message, tmp_path):
    path = tmp_path / "page.md"
    path.write_text(page, encoding="utf-8")
    with pytest.raises((AssertionError, ValueError), match=message):
        snippets.run(path, tmp_path)


@pytest.mark.parametrize(
    ("expected", "printed", "is_right"),
    [
        ("RMSE 0.96", "RMSE 0.97", True),
        ("RMSE 0.96", "RMSE 1.06", False),
        ("92% within", "93% within", True),
        ("92% within", "81% within", False),
        ("5 epochs, loss 0.5", "6 epochs, loss 0.5", False),
        ("-2.41  a x b", "-2.44  a x b", True),
        ("-2.41  a x b", "2.41  a x b", False),
        ("0.5", "50%", False),
        ("0.5 0.6", "0.5", False),
    ],
)
def test_only_numbers_with_a_fraction_may_differ_a_little(expected, printed, is_right, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"```python\nprint({printed!r})\n```\n\n```output\n{expected}\n```\n", encoding="utf-8")
    if is_right:
        assert snippets.run(page, tmp_path) == 1
    else:
        with pytest.raises(AssertionError, match=r"line 5"):
            snippets.run(page, tmp_path)


def test_blocks_that_are_not_run_are_shown_only(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(
        "<!-- not run: it installs -->\n```sh\nfalse\n```\n\n"
        "<!-- needs: a_module_that_nobody_has -->\n```python\n1 / 0\n```\n\n```output\nnothing\n```\n",
        encoding="utf-8",
    )
    assert snippets.run(path, tmp_path) == 0


def test_every_formula_of_the_theory_is_checked_by_code():
    for page in (DOCS / "theory").glob("*.md"):
        if page.stem == "index":
            continue
        sections = re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.M)[1:]
        for section in sections:
            if "$$" in section:
                assert "```python" in section, f"{page.name}: {section.splitlines()[0]}"


def test_no_public_name_is_missing_from_the_reference():
    listed: set[str] = set()
    module = "fmfast"
    for page in sorted((DOCS / "reference").glob("*.md")):
        for directive, name in re.findall(
            r"^\.\. (auto\w+|currentmodule):: ([\w.]+)", page.read_text(encoding="utf-8"), re.M
        ):
            if directive == "currentmodule":
                module = name
            elif directive == "automodule":
                module = name
                listed.add(name)
                listed |= {f"{name}.{member}" for member in getattr(sys.modules[name], "__all__", ())}
            else:
                listed.add(name if name.startswith("fmfast.") else f"{module}.{name}")
    public = {f"{name}.{member}" for name in PUBLIC_MODULES
              for member in importlib.import_module(name).__all__}  # fmt: skip
    missing = sorted(public - listed)
    assert not missing, f"add to docs/reference/: {missing}"


def test_every_file_that_a_page_names_exists():
    file_name = re.compile(r"`((?:fmfast|tests|bench|docs|examples)/[\w/.]+\.\w+)`")
    for page in PAGES:
        for name in file_name.findall(page.read_text(encoding="utf-8")):
            assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_every_page_is_reached():
    """Each page stands in the table of its folder, or on the front page."""
    for page in PAGES:
        index = page.parent / "index.md"
        text = index.read_text(encoding="utf-8")
        if page != index and "\n*\n" not in text:
            assert re.search(rf"^{page.stem}$", text, re.M), page


# -- the README ------------------------------------------------------------------------------------


def test_quick_start_of_the_readme(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    first, bayesian = _python_blocks_of_the_readme()[:2]
    namespace = {}
    exec(compile(first, "README.md", "exec"), namespace)
    r2 = float(capsys.readouterr().out.splitlines()[0])
    assert 0.98 < r2 < 1
    assert (tmp_path / "ratings.npz").exists()
    exec(compile(bayesian, "README.md", "exec"), namespace)  # goes on with the same rows
    rating, lower, upper = (namespace[name] for name in ("rating", "lower", "upper"))
    assert (lower < rating[40_000:]).mean() > 0.9
    assert (rating[40_000:] < upper).mean() > 0.9
    assert (tmp_path / "bayesian.npz").exists()


def test_what_the_readme_says_is_printed(tmp_path):
    """Each block of Python with a block of output right behind it."""
    text = README.read_text(encoding="utf-8")
    pairs = re.findall(r"```python\n((?:(?!```).)*)```\n+```\n(.*?)```", text, re.S)
    assert pairs
    for number, (code, output) in enumerate(pairs):
        page = tmp_path / f"readme_{number}.md"
        page.write_text(f"```python\n{code}```\n\n```output\n{output}```\n", encoding="utf-8")
        assert snippets.run(page, tmp_path) == 1


def _python_blocks_of_the_readme():
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
