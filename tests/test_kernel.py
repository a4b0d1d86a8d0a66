"""Chapters in a live kernel, as a reader has them: run twice, stopped, failed, and run again.

A notebook's kernel outlives what goes wrong in it: it keeps the last error, every variable and the
run folder's lock, unless the library lets go of them. Papermill starts a new one each time.
"""

import ast
import os
import re
import subprocess
import sys
from base64 import b64decode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chapter_tools import FOLDER, chapter_cells, write_notebook
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from kill_tools import differences
from PIL import Image
from same_bits import digest

pytestmark = pytest.mark.deep

PATIENCE = 120  # seconds after which a cell that does not end is a failure

TINY = {"scale": "laptop", "epochs": 1, "max_steps": 2}
SMALL: dict[str, dict[str, Any]] = {  # a few steps of almost nothing; two epochs, so as to go on
    "03_search": {"epochs": 2, "channels": 2, "layers": 1, "nodes": 1, "batch_size": 8},
    "05_retrain": {"epochs": 2, "channels": 2, "layers": 3, "genotype": "DARTS_V2"},
    "06_recurrent_cells": {"epochs": 2, "width": 4, "nodes": 2, "batch_size": 4},
}
SHORT_PATH = {  # what a chapter's run needs of the chapter, by words of the cells
    "03_search": ("threads = torch", "= search(config)", "first, last ="),
    "05_retrain": ("with_searched_cell(config)", "train = load_images", "retrain(config)")
    + ("history, figures =", "evaluate_run(result.path"),
    "06_recurrent_cells": ("set_num_threads", "corpus =", "= search(config)", "history, path ="),
}
UNTOLD = """
from darts_lib.engine.run import Run
Run.describe = lambda run: None  # its two steps would be among those that are counted
"""
STEPS = {"03_search": 7, "05_retrain": 4, "06_recurrent_cells": 7}
"""Which look at a gradient is in the second epoch: a search looks at two in each of its steps."""


@dataclass(frozen=True)
class Said:
    """What a cell printed and drew; and its error, if there was one."""

    out: str
    error: str = ""
    shown: str = ""
    pictures: tuple[bytes, ...] = ()

    def lines(self) -> list[str]:
        """Return the printed lines without times, and without how the run got to its end."""
        plain = re.sub(r"\b\d+(\.\d+)? (s|ms|min|h)\b|\bseconds [\d.e-]+", "TIME", self.out)
        return [line for line in plain.splitlines() if not line.startswith("finished already")]


class Kernel:
    """A kernel in the chapters' folder, as JupyterLab starts it."""

    def __init__(self, runs: Path) -> None:
        self.manager = KernelManager(kernel_name="python3")
        env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        env |= {"DARTS_LIB_RUNS": str(runs), "JPY_SESSION_NAME": str(FOLDER / "x.ipynb")}
        self.manager.start_kernel(cwd=str(FOLDER), env=env)
        self.client: BlockingKernelClient = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=PATIENCE)

    def run(self, source: str, when: str = "", then: Callable[[], None] | None = None) -> Said:
        """Run a cell; do `then` when it prints `when`."""
        out: list[str] = []
        pictures: list[bytes] = []

        def heard(message: dict[str, Any]) -> None:
            content = message["content"]
            if content.get("name") == "stdout":
                out.append(content["text"])
                if then and when in content["text"]:
                    then()
            elif message["msg_type"] in ("execute_result", "display_data"):
                out.append(f"{content['data'].get('text/plain')}\n")
                if "image/png" in content["data"]:
                    pictures.append(b64decode(content["data"]["image/png"]))

        reply = self.client.execute_interactive(
            source, allow_stdin=False, output_hook=heard, timeout=PATIENCE
        )["content"]
        if reply["status"] == "ok":
            return Said("".join(out), pictures=tuple(pictures))
        shown = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(reply["traceback"]))
        return Said("".join(out), f"{reply['ename']}: {reply['evalue']}", shown)

    def run_all(self, cells: list[str], **given: Any) -> list[Said]:
        """Run cells in order up to the first error, as Run All does."""
        said: list[Said] = []
        while len(said) < len(cells) and not (said and said[-1].error):
            said.append(self.run(cells[len(said)], **given))
        return said

    def good(self, cells: list[str]) -> list[Said]:
        """Run cells in order; none may end in an error."""
        said = self.run_all(cells)
        assert not said[-1].error, said[-1].shown
        return said

    def held(self) -> dict[str, Any]:
        """Return the runs that the kernel holds, before and after it collects garbage; tensors."""
        kept: dict[str, Any] = ast.literal_eval(self.run(HELD).out)
        return kept

    def arm(self, call: int, fault: str) -> None:
        """Let the step with this look at a gradient end in a fault; once."""
        assert not self.run(ARMED.format(call=call, fault=FAULTS[fault])).error


HELD = """
import gc
RUNS = {"Search", "Retraining", "RecurrentSearch", "RecurrentRetraining", "FusedSupernet"}
def _held():
    import torch, tqdm
    runs = lambda: [type(x).__name__ for x in gc.get_objects() if type(x).__name__ in RUNS]
    at_once, bars = runs(), len(getattr(tqdm.tqdm, "_instances", ()))
    gc.collect()
    tensors = [x for x in gc.get_objects() if issubclass(type(x), torch.Tensor)]
    size = sum(x.numel() * x.element_size() for x in tensors)
    found = {"at_once": at_once, "runs": runs(), "bars": bars}
    return found | {"tensors": len(tensors), "bytes": size}
print(_held())
"""

ARMED = """
def _arm():
    from darts_lib.engine.optimisers import FiniteGuard
    watch, calls = FiniteGuard.watch, []
    def failing(self, optimiser, loss, norm):
        calls.append(loss.item())
        if len(calls) == {call}:
            FiniteGuard.watch = watch
            {fault}
        watch(self, optimiser, loss, norm)
    FiniteGuard.watch = failing
_arm()
"""

WAITING = "the student looks on"
FAULTS = {
    "an error": "raise ValueError('of the test')",
    "no memory": "import torch; torch.empty(2**60, dtype=torch.uint8)",
    "no GPU memory": "import torch; raise torch.OutOfMemoryError('CUDA out of memory. Tried to')",
    "a wait": f"import time; print({WAITING!r}, flush=True); time.sleep({PATIENCE})",
}


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """Return a kernel for all tests: what one of them leaves there, the next one must bear."""
    kernel = Kernel(tmp_path_factory.mktemp("kernel-runs"))
    yield kernel
    kernel.client.stop_channels()
    kernel.manager.shutdown_kernel(now=True)


def guard_of(cells: list[str]) -> int:
    return next(i for i, cell in enumerate(cells) if "read_parameters(globals()" in cell)


def whole(name: str, **parameters: Any) -> list[str]:
    """Return a chapter's code cells, with parameters as papermill injects them."""
    cells = chapter_cells(name, "code")
    lines = "".join(f"{name} = {value!r}\n" for name, value in parameters.items())
    cells.insert(guard_of(cells), f"# Parameters\n{lines}")
    return cells


def short(name: str, run_dir: Path, **parameters: Any) -> list[str]:
    """Return the cells that a chapter's run needs, with settings that make it a small one."""
    cells = whole(name, **{**TINY, **SMALL[name], "run_dir": str(run_dir), **parameters})
    after = guard_of(cells) + 1
    kept = [cell for cell in cells[after:] if any(word in cell for word in SHORT_PATH[name])]
    return [*cells[:after], UNTOLD, *kept]


FULL: dict[str, dict[str, Any]] = {
    "01_search_space": {},
    "02_continuous_relaxation": {"scale": "laptop"},
    "03_search": {**TINY, "channels": 2, "layers": 1},
    "04_genotype": {"scale": "laptop"},
    "05_retrain": {**TINY, "channels": 2, "layers": 3, "genotype": "DARTS_V2"},
    "06_recurrent_cells": {**TINY, "width": 8},
    "07_transfer": {**TINY, "genotype": "DARTS_V2"},
}
FOLDERS = ("03_search", "04_genotype", "05_retrain", "06_recurrent_cells", "07_transfer")
SEARCHED = {"epochs": 1, "channels": 4, "layers": 3, "nodes": 4, "batch_size": 64}
"""The search that chapter 04 reads: its own would be the laptop's, of a minute."""
LEFT_OUT = {
    "03_search": ("inner = InnerStep(", "= search(config)"),
    "04_genotype": ("madds_weight=weight", 'one_hot_alphas(PUBLISHED["NASNet"])'),
    "06_recurrent_cells": ("def by_hand(cell", "corpus = text"),
}
"""A chapter's proofs, from the one cell to before the other: long, and no part of its run."""


def alike(one: bytes, other: bytes) -> bool:
    """Say whether two PNG show the same: the inline backend rounds a pixel's edge now and then."""
    first, second = (np.asarray(Image.open(BytesIO(png)), dtype=int) for png in (one, other))
    return first.shape == second.shape and abs(first - second).max() <= 2


@pytest.mark.parametrize("name", FULL)
def test_cells_run_twice_give_the_same_figures(name: str, kernel: Kernel, tmp_path: Path) -> None:
    kernel.run("%reset -f")
    given = {"run_dir": str(tmp_path / "run")} if name in FOLDERS else {}
    if name == "04_genotype":
        kernel.good([*short("03_search", tmp_path / "run", **SEARCHED), "%reset -f"])
    cells = whole(name, **FULL[name], **given)
    if name in LEFT_OUT:
        ends = (next(i for i, cell in enumerate(cells) if w in cell) for w in LEFT_OUT[name])
        del cells[slice(*ends)]
    cells.insert(guard_of(cells) + 1, UNTOLD)
    before = kernel.good(cells)
    bits = {file: digest(file) for file in tmp_path.rglob("*.[nsj][pas][zfo]*")}
    for cell, first in zip(cells, before, strict=True):
        for again in kernel.good([cell, cell] if name == "05_retrain" else [cell]):
            if "finished already" in again.out:
                assert set(again.lines()) <= set(first.lines()), cell
            else:
                assert again.lines() == first.lines(), cell
            assert len(again.pictures) == len(first.pictures)
            assert all(map(alike, again.pictures, first.pictures)), cell
    assert bits == {file: digest(file) for file in bits}, "alphas, weights and figures of the run"
    assert any(file.suffix in (".npz", ".safetensors") for file in bits) == bool(given)


ERRORS = {
    "an error": "ValueError: of the test",
    "no memory": "DefaultCPUAllocator: can't allocate memory",
    "a wait": "KeyboardInterrupt: stopped; finished epochs are kept in",
}


@pytest.mark.parametrize(
    ("name", "fault"),
    [("03_search", "a wait"), ("05_retrain", "no memory"), ("06_recurrent_cells", "an error")],
)
def test_a_run_that_fails_goes_on(name: str, fault: str, kernel: Kernel, tmp_path: Path) -> None:
    run = tmp_path / "run"
    kernel.good(short(name, tmp_path / "straight"))
    kernel.run("%reset -f")
    kernel.arm(STEPS[name], fault)
    cells = short(name, run)
    failed = kernel.run_all(cells, when=WAITING, then=kernel.manager.interrupt_kernel)[-1]
    assert ERRORS[fault] in failed.error
    assert "epoch 1/2" in failed.out
    if fault == "a wait":
        assert failed.shown.splitlines() == [failed.error]
        assert str(run) in failed.error
        assert "run the same cell or command to go on" in failed.error
    held = kernel.held()
    assert (held["at_once"], held["bars"]) == ([], 0), "the last error holds no supernet and no bar"

    said = "".join(one.out for one in kernel.good(cells))
    assert f"resuming at epoch 2 from {run}" in said
    assert "waiting for it" not in said, "the lock was let go"
    assert kernel.held()["runs"] == []
    assert differences(run, tmp_path / "straight") == []


def test_failing_for_memory_again_and_again_holds_no_more(kernel: Kernel, tmp_path: Path) -> None:
    kernel.run("%reset -f")
    held = []
    for _ in range(4):
        kernel.arm(2, "no GPU memory")
        failed = kernel.run_all(short("03_search", tmp_path / "run"))[-1]
        assert "CUDA out of memory" in failed.error
        held.append(kernel.held())
    assert [each["at_once"] for each in held] == [[]] * 4
    assert held[1:] == [held[1]] * 3, "neither tensors nor bytes grow"
    cells = short("03_search", tmp_path / "run", batch_size=3)
    said = "".join(one.out for one in kernel.good([*cells, "print(config.batch_size)"]))
    assert said.endswith("\n3\n")
    assert "epoch 2/2" in said
    assert "waiting for it" not in said
    assert kernel.held()["runs"] == []


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
