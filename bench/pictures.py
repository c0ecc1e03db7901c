"""The look of the pictures, once for all sections."""

from __future__ import annotations

from typing import Any

COLOURS = {
    "fmfast": "#1b6ca8",
    "fmfast light": "#8dbbdc",
    "numpy": "#e07b39",
    "numpy light": "#f3c29f",
    "reference": "#6b6b6b",
}
OTHERS = ("#4f9d69", "#9b5fc0", "#c44e52", "#c9a227", "#5f7f8f")


def new_figure(n_panels: int, width: float = 5.2, height: float = 4.0) -> tuple[Any, list[Any]]:
    """A figure with panels side by side."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, n_panels, figsize=(width * n_panels, height), squeeze=False, layout="constrained"
    )
    for ax in axes[0]:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(True, which="major", color="#dddddd", linewidth=0.6)
        ax.set_axisbelow(True)
    return figure, list(axes[0])


def legend_below(ax: Any, n_columns: int = 2) -> None:
    """A legend under the axes, where it covers no data."""
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=n_columns, frameon=False, fontsize=9)


def plain_log_scale(ax: Any) -> None:
    """A logarithmic y axis with ticks at 1, 2, 5, 10, ... written out."""
    from matplotlib.ticker import LogLocator, NullLocator

    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter("{x:g}")


def grouped_bars(ax: Any, groups: list[str], series: dict[str, list[float]], colours: list[str]) -> None:
    """One group of bars per label, one bar per series, each with its value on top."""
    width = 0.8 / max(1, len(series))
    for i, ((name, values), colour) in enumerate(zip(series.items(), colours, strict=True)):
        left = [g - 0.4 + (i + 0.5) * width for g in range(len(groups))]
        bars = ax.bar(left, values, width, label=name, color=colour)
        texts = [f"{value:.2g}" if value < 99.5 else f"{value:.0f}" for value in values]
        ax.bar_label(bars, texts, fontsize=7, padding=1)
    ax.set_xticks(range(len(groups)), groups)
    ax.tick_params(axis="x", length=0)
    ax.grid(False, axis="x")


def save(figure: Any, path: Any) -> None:
    import matplotlib.pyplot as plt

    figure.savefig(path, dpi=130)
    plt.close(figure)
