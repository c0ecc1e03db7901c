"""Convert rows into another format, told by the ending of TARGET.

.fmd is a data set on disk, from which training is fastest and needs no memory; it is written in one pass and
bounded memory, whatever the source. Text (.libsvm, .svm, .svmlight, .txt; .ffm and .libffm, which need to
know the field of each column; each also .gz or .zst) is written from memory.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

import numpy as np

from fmfast import text
from fmfast._convert import convert
from fmfast.cli import data
from fmfast.cli.options import add_n_jobs, read_count, reader_of, usage_error

SUMMARY = "write rows in another format"
USAGE = "SOURCE TARGET [options]"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="text, CSV, Parquet or a data set (.fmd)")
    parser.add_argument("output", metavar="TARGET", help="its ending tells the format")
    parser.add_argument("--overwrite", action="store_true", help="replace TARGET if it exists")
    parser.add_argument(
        "--n-features",
        metavar="N",
        type=read_count,
        help="libsvm and libffm: columns (default: as SOURCE needs)",
    )
    parser.add_argument(
        "--dtype",
        metavar="WORD",
        type=reader_of("dtype", str),
        default="float32",
        help="of the values, float32 or float64 (default: %(default)s)",
    )
    add_n_jobs(parser)
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    data.add_data_options(parser)


def run(args: argparse.Namespace) -> None:
    source = data.Source.of(args.source, args)
    kind = data.format_of(args.output)
    if kind in ("csv", "parquet"):
        raise usage_error(f"{kind} is not written, expected a TARGET that ends with .fmd, .libsvm or .libffm")
    if os.path.lexists(args.output) and not args.overwrite:
        raise FileExistsError(f"{args.output!r} exists; give another name, or --overwrite.")
    if kind == "fmd":
        n_rows, n_columns = _to_dataset(source, args)
    else:
        n_rows, n_columns = _to_text(source, args, with_field=kind == "libffm")
    if not args.quiet:
        print(f"{args.output}: {n_rows:,} rows, {n_columns:,} columns")


def _to_dataset(source: data.Source, args: argparse.Namespace) -> tuple[int, int]:
    if source.format == "fmd":
        raise usage_error(f"{source.path!r} is such a data set already; copy the directory")
    with data.in_words_of_the_command("give a larger --n-features"):
        written = convert(
            source.path,
            args.output,
            y=source.target,
            sample_weight=source.sample_weight,
            n_features=args.n_features,
            dtype=args.dtype,
            overwrite=args.overwrite,
            **source.text_options,
        )
    return written.n_samples, written.n_features


def _to_text(source: data.Source, args: argparse.Namespace, with_field: bool) -> tuple[int, int]:
    rows = data.read(source, args.dtype, args.n_features)
    if with_field and rows.field is None:
        raise ValueError(
            f"{source.path!r} does not know the fields of its columns, which libffm needs; write libsvm "
            "instead."
        )
    X: Any = np.asarray(rows.X) if isinstance(rows.X, data.NamedRows) else rows.X
    text.dump(
        args.output,
        X,
        rows.y,
        field=rows.field if with_field else None,
        zero_based=source.zero_based,
        dtype=args.dtype,
    )
    shape: tuple[int, int] = rows.X.shape
    return shape
