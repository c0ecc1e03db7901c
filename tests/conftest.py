"""Fixtures that several test modules share."""

from __future__ import annotations

import pytest

from fmfast._dispatch import available_levels, load_core, load_kernel


@pytest.fixture(params=available_levels())
def core(request):
    """The kernel, built for each instruction set that this machine has."""
    return load_core(request.param)


@pytest.fixture(params=available_levels())
def coordinate(request):
    """The kernel of updates by column, likewise."""
    return load_kernel("_coordinate", request.param)
