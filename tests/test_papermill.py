"""Papermill from end to end on a small notebook: a wrong parameter ends it, non-zero, in a line."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from chapter_tools import write_notebook

PARAMETERS = """\
epochs: int = 0  # 0: the scale's own
scale: str = "laptop"  # "laptop", "paper" or "auto"
dataset: str = ""  # "": the scale's own
run_dir: str = ""  # "": a folder in runs
device: str = "auto"  # "auto", "cpu", "cuda" or "mps"
resume: bool = True  # go on with an earlier run
"""
RETRAIN = [
    "from darts_lib.retrain import RetrainConfig, retrain\n"
    "from darts_lib.teaching.notebook import read_parameters",
    PARAMETERS + 'genotype: str = "DARTS_V2"  # a cell\n',
    "config = read_parameters(globals(), RetrainConfig)",
    "result = retrain(config)",
]

pytestmark = pytest.mark.deep  # each starts a kernel


def papermill(folder: Path, sources: list[str], *options: str) -> tuple[int, str]:
    """Run a notebook of these cells; return its status and all it said, uncoloured."""
    write_notebook(folder / "chapter.ipynb", *sources)
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "--log-level", "WARNING"]
    command += ["--stdout-file", "-", "--stderr-file", "-", "-k", "python3"]
    command += ["chapter.ipynb", "out.ipynb", *options]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    return done.returncode, re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)


def test_a_wrong_cell_ends_the_run_in_one_line_before_anything_is_made(
    tmp_path: Path, runs_root: Path
) -> None:
    """A misspelt parameter of a search does the same in .ci/run."""
    status, said = papermill(tmp_path, RETRAIN, "-p", "genotype", "DARTS_V3")
    assert status != 0
    line = r"^SettingsError: unknown genotype 'DARTS_V3'.*DARTS_V2"
    assert re.search(line, said, re.MULTILINE), said[-3000:]
    assert list(runs_root.iterdir()) == []
