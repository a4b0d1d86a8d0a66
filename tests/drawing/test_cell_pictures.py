"""Cells as files: pictures, and the GIF of a search."""

import io
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from PIL import Image
from same_bits import digest

from darts_lib.derivation import random_genotype
from darts_lib.drawing.cell_plots import cell_picture, search_gif
from darts_lib.genotype import PUBLISHED

CELL = PUBLISHED["DARTS_V2"]


def test_a_picture_is_the_same_each_time_and_as_its_suffix_says(tmp_path: Path) -> None:
    first = cell_picture(CELL)
    assert Image.open(io.BytesIO(first)).size == (1000, 450)
    assert digest(cell_picture(CELL, tmp_path / "cell.png")) == digest(first)
    assert digest(tmp_path / "cell.png") == digest(first)
    drawn = cell_picture(CELL, str(tmp_path / "cell.svg"))
    assert drawn == (tmp_path / "cell.svg").read_bytes()
    assert len(re.findall(rb'id="edge \d+"', drawn)) == 2 * 8, "both cells, eight edges each"
    assert plt.get_fignums() == []


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no folder .*no; make it"):
        cell_picture(CELL, tmp_path / "no" / "cell.svg")
    with pytest.raises(ValueError, match=r"\.png or \.svg"):
        cell_picture(CELL, Path("cell.jpeg"))
    with pytest.raises(ValueError, match="at least one genotype"):
        search_gif([], tmp_path / "none.gif")


def test_gif_of_a_search(tmp_path: Path) -> None:
    genotypes = [random_genotype(0), random_genotype(0), random_genotype(1)]
    path = search_gif(genotypes, tmp_path / "a.gif")
    times = []
    with Image.open(path) as gif:
        assert (gif.n_frames, gif.info["loop"]) == (3, 0)
        for frame in range(gif.n_frames):
            gif.seek(frame)
            times.append(gif.info["duration"])
    assert times[-1] > times[0] == times[1]
    assert path.stat().st_size < 300_000
    assert digest(search_gif(genotypes, tmp_path / "b.gif")) == digest(path)
    assert digest(search_gif(genotypes, tmp_path / "c.gif", first=1)) != digest(path)
    assert plt.get_fignums() == []
