"""Results: what a section of the bench found, on the terminal, as Markdown and as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass
class Table:
    """Rows with the same columns; the units stand in the names of the columns."""

    title: str
    rows: list[Row]


@dataclass
class Target:
    """A figure with what it should be: at least, or at most, `limit`."""

    text: str
    value: float
    limit: float
    at_least: bool

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        word = "at least" if self.at_least else "at most"
        return f"{self.text}: {text_of(self.value)} ({word} {self.limit:g}){'' if self.met else ' - NOT MET'}"


def at_least(text: str, value: float, limit: float) -> Target:
    return Target(text, value, limit, at_least=True)


def at_most(text: str, value: float, limit: float) -> Target:
    return Target(text, value, limit, at_least=False)


@dataclass
class Section:
    """What one section found.

    Attributes
    ----------
    about : str
        What was measured and how.
    data : dict
        Curves and the like: for the picture and the JSON, not for the tables.
    """

    title: str
    about: str
    tables: list[Table]
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)


def text_of(value: Any) -> str:
    """A cell: four significant digits, thousands apart."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int) or (math.isfinite(value) and abs(value) >= 1000):
        return f"{value:,.0f}"
    return f"{value:.4g}"


def markdown_table(rows: list[Row]) -> str:
    """A Markdown table that is also readable as it is: columns are aligned, numbers to the right."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [[text_of(row.get(column)) for column in columns] for row in rows]
    widths = [max(map(len, texts)) for texts in zip(columns, *cells, strict=True)]
    numeric = [
        all(isinstance(row.get(column), (int, float, type(None))) for row in rows) for column in columns
    ]

    def line(texts: list[str]) -> str:
        aligned = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(texts, widths, numeric, strict=True)
        ]
        return f"| {' | '.join(aligned)} |"

    rule = [
        "-" * (width - 1) + ":" if right else "-" * width
        for width, right in zip(widths, numeric, strict=True)
    ]
    return "\n".join([line(columns), line(rule), *(line(texts) for texts in cells)])


def as_markdown(section: Section, picture: str | None = None) -> str:
    parts = [f"## {section.title}", section.about]
    for table in section.tables:
        parts += [f"**{table.title}**", markdown_table(table.rows)]
    if section.targets:
        parts.append("\n".join(f"- {target}" for target in section.targets))
    if section.notes:
        parts.append("\n".join(f"- {note}" for note in section.notes))
    if picture is not None:
        parts.append(f"![{section.title}]({picture})")
    return "\n\n".join(parts) + "\n"


def machine_as_markdown(machine: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    facts = {**machine, "packages": packages}
    return "\n".join(f"- {name}: {fact}" for name, fact in facts.items()) + "\n"


def as_json(machine: dict[str, Any], sections: dict[str, Section]) -> str:
    """Everything, with what the targets came to."""
    found = {}
    for name, section in sections.items():
        found[name] = asdict(section)
        for target, facts in zip(section.targets, found[name]["targets"], strict=True):
            facts["met"] = target.met
    return json.dumps({"machine": machine, "sections": found}, indent=1, default=float) + "\n"


def write(
    folder: Path, machine: dict[str, Any], sections: dict[str, Section], pictures: dict[str, str]
) -> None:
    """`results.json` and `results.md` of all sections so far."""
    (folder / "results.json").write_text(as_json(machine, sections))
    texts = ["# Results of `python -m bench`\n", machine_as_markdown(machine)]
    if machine["scale"] != 1:
        texts.append("The targets are meant for the full size (`--scale 1`).\n")
    texts += [as_markdown(section, pictures.get(name)) for name, section in sections.items()]
    (folder / "results.md").write_text("\n".join(texts))
