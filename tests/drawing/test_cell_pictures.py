"""Cells as files: with and without graphviz, and the GIF of a search."""

import io
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from PIL import Image
from same_bits import digest

from darts_lib.derivation import random_genotype
from darts_lib.drawing.cell_pictures import cell_digraph, cell_picture, search_gif
from darts_lib.genotype import PUBLISHED

CELL = PUBLISHED["DARTS_V2"]
SVG = b"<svg xmlns='http://www.w3.org/2000/svg'></svg>"


@pytest.fixture
def no_dot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty))


def fake_dot(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """Put a `dot` on an otherwise empty path; it is a stand-in, for machines without graphviz."""
    program = folder / "dot"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return program


def test_the_graph_has_every_edge_with_its_name() -> None:
    source = cell_digraph(PUBLISHED["NASNet"], "reduce").source
    for i, (name, state) in enumerate(PUBLISHED["NASNet"].reduce):
        assert f'reduce{state} -> reduce{i // 2 + 2} [label={name} color="' in source
    assert source.count("label=") == 10 + 2 + 1 + 5 + 1  # edges, inputs, output, nodes, heading
    assert source.count("-> reduce_output") == len(PUBLISHED["NASNet"].reduce_concat)


@pytest.mark.usefixtures("no_dot")
def test_without_dot_the_picture_is_ours_and_the_same_each_time(tmp_path: Path) -> None:
    first = cell_picture(CELL)
    assert Image.open(io.BytesIO(first)).size == (1000, 450)
    assert digest(cell_picture(CELL, tmp_path / "cell.png")) == digest(first)
    assert digest(tmp_path / "cell.png") == digest(first)
    svg = cell_picture(CELL, tmp_path / "cell.svg")
    assert b"<svg" in svg
    assert digest(cell_picture(CELL, tmp_path / "again.svg")) == digest(svg)
    assert plt.get_fignums() == []


def test_a_path_may_be_a_text_and_its_folder_must_be_there(tmp_path: Path) -> None:
    picture = cell_picture(CELL, str(tmp_path / "cell.svg"))
    assert (tmp_path / "cell.svg").read_bytes() == picture
    with pytest.raises(ValueError, match="there is no folder .*no; make it"):
        cell_picture(CELL, tmp_path / "no" / "cell.svg")


def test_with_dot_the_picture_is_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_dot(tmp_path, monkeypatch, f'while read -r line; do :; done; echo "{SVG.decode()}"')
    assert cell_picture(CELL, tmp_path / "cell.svg").strip() == SVG


def test_a_dot_that_fails_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_dot(tmp_path, monkeypatch, "exit 1")
    assert cell_picture(CELL).startswith(b"\x89PNG")


def test_an_unknown_suffix_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\.png or \.svg"):
        cell_picture(CELL, Path("cell.jpeg"))


def test_gif_of_a_search(tmp_path: Path) -> None:
    genotypes = [random_genotype(0), random_genotype(0), random_genotype(1)]
    path = search_gif(genotypes, tmp_path / "a.gif")
    with Image.open(path) as gif:
        assert gif.n_frames == 3
        assert gif.info["loop"] == 0
        times = []
        for frame in range(gif.n_frames):
            gif.seek(frame)
            times.append(gif.info["duration"])
    assert times[-1] > times[0] == times[1]
    assert path.stat().st_size < 300_000
    assert digest(search_gif(genotypes, tmp_path / "b.gif")) == digest(path)
    assert plt.get_fignums() == []


def test_gif_that_begins_later_says_so(tmp_path: Path) -> None:
    start = search_gif([random_genotype(0)], tmp_path / "0.gif")
    later = search_gif([random_genotype(0)], tmp_path / "1.gif", first=1)
    assert digest(start) != digest(later)


def test_gif_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one genotype"):
        search_gif([], tmp_path / "none.gif")
