"""``python tests/peers keep`` writes the files in ``kept`` anew, with fslpy and surfa installed beside the rest."""

from __future__ import annotations

import tempfile
from pathlib import Path

from peers import fsl_freesurfer
from peers.files import KEPT, SMALL, Written


def keep() -> None:
    """From `peers.maps.some_map` on small grids, nothing else."""
    KEPT.mkdir(exist_ok=True)
    for way in fsl_freesurfer.WAYS:
        if isinstance(way, Written) and way.kept:
            with tempfile.TemporaryDirectory() as name:
                way.write(*SMALL, Path(name))
                way.kept_as.write_bytes((Path(name) / way.file).read_bytes())
