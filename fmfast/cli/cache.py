"""Data sets that training out of core has made of text and tables, to be used again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

from fmfast._convert import convert
from fmfast.cli.data import Source, in_words_of_the_command


def converted(
    source: Source,
    directory: str | None,
    *,
    dtype: str,
    n_features: int | None,
    say: Callable[[str], None],
) -> str:
    """The data set made of a source, in a directory or beside the source; converted unless it is newer."""
    path = _name_for(source, directory, dtype, n_features)
    if not _is_newer(path, source.path):
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        say(f"{source.path}: converting to {path}")
        with in_words_of_the_command("give a larger --n-features"):
            convert(
                source.path,
                path,
                y=source.target,
                sample_weight=source.sample_weight,
                dtype=dtype,
                n_features=n_features,
                overwrite=True,
                **source.text_options,
            )
    return path


def _name_for(source: Source, directory: str | None, dtype: str, n_features: int | None) -> str:
    """Of what the data set depends on besides the content: no other is ever taken for it."""
    settings = [source.format, source.target, source.sample_weight, source.zero_based, dtype, n_features]
    if directory is not None:
        settings.append(os.path.realpath(source.path))  # names of several directories may be equal
    digest = hashlib.sha256(repr(settings).encode()).hexdigest()[:8]
    name = f"{os.path.basename(source.path)}.{digest}.fmd"
    return os.path.join(os.path.dirname(source.path) if directory is None else directory, name)


def _is_newer(path: str, source: str) -> bool:
    made_of = os.stat(source).st_mtime_ns  # an error if there is no source, whatever was made of it
    try:
        return os.stat(os.path.join(path, "meta.json")).st_mtime_ns > made_of
    except FileNotFoundError:
        return False
