"""One module per reader; see `fuzz.target`."""

from __future__ import annotations

from fuzz.target import Target
from fuzz.targets.checkpoint import CheckpointTarget
from fuzz.targets.dataset import DatasetTarget
from fuzz.targets.libfm import LibfmTarget
from fuzz.targets.matrix import MatrixTarget
from fuzz.targets.modelfile import ModelFileTarget
from fuzz.targets.text import TextTarget

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        TextTarget(),
        LibfmTarget(),
        ModelFileTarget(),
        DatasetTarget(),
        CheckpointTarget(),
        MatrixTarget(),
    )
}
