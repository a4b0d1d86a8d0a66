"""Cells as files: pictures, and the GIF of a search."""

import io
import json
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from PIL import Image
from same_bits import digest

from darts_lib.derivation import random_genotype
from darts_lib.drawing.cell_plots import cell_picture, search_gif
from darts_lib.formats.cell_choice import find_genotype
from darts_lib.genotype import PUBLISHED

CELL = PUBLISHED["DARTS_V2"]


def test_a_picture_is_the_same_each_time_and_as_its_suffix_says(tmp_path: Path) -> None:
    first = cell_picture(CELL)
    assert Image.open(io.BytesIO(first)).size == (1000, 450)
    assert digest(cell_picture(CELL, tmp_path / "cell.png")) == digest(first)
    assert digest(tmp_path / "cell.png") == digest(first)
    assert cell_picture(CELL, str(tmp_path / "cell.svg")) == (tmp_path / "cell.svg").read_bytes()
    assert plt.get_fignums() == []


def test_a_cell_is_drawn_alike_whatever_it_is_named_by(tmp_path: Path) -> None:
    """Of quark0/darts#19: by its name, its text, a file or the folder of its search."""
    file = tmp_path / "genotype.json"
    file.write_text(json.dumps(CELL.to_dict()))
    for number, name in enumerate(("DARTS_V2", str(CELL), str(file), str(tmp_path))):
        cell_picture(find_genotype(name), tmp_path / f"{number}.svg")
    assert len({digest(path) for path in tmp_path.glob("*.svg")}) == 1
    drawn = (tmp_path / "0.svg").read_text()
    assert len(re.findall(r'id="edge \d+"', drawn)) == 2 * 8, "both cells, eight edges each"


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
