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
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chapter_tools import FOLDER, chapter_cells
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from kill_tools import differences
from PIL import Image
from same_bits import digest

pytestmark = pytest.mark.deep

PATIENCE = 120  # seconds after which a cell that does not end is a failure
ON_CPU = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

TINY = {"scale": "laptop", "epochs": 1, "max_steps": 2}
SMALL: dict[str, dict[str, Any]] = {
    "01_search_space": {},
    "02_continuous_relaxation": {"scale": "laptop"},
    "03_search": {**TINY, "channels": 2, "layers": 1},
    "04_genotype": {"scale": "laptop"},
    "05_retrain": {**TINY, "channels": 2, "layers": 3, "genotype": "DARTS_V2"},
    "06_recurrent_cells": {**TINY, "width": 8},
    "07_transfer": {**TINY, "genotype": "DARTS_V2"},
}
SHORT_PATH = {  # what a chapter's run needs of the chapter, by words of the cells
    "03_search": ("threads = torch", "= search(config)", "first, last ="),
    "05_retrain": ("with_searched_cell(config)", "train = load_images", "= retrain(config)")
    + ("assert len(result.history)",),
    "06_recurrent_cells": ("set_num_threads", "corpus =", "= search(config)", "history, path ="),
}
UNTOLD = """
from darts_lib.engine.run import Run
Run.describe = lambda run: None  # its two steps would be among those that are counted
"""


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
        own = {"DARTS_LIB_RUNS": str(runs), "JPY_SESSION_NAME": str(FOLDER / "x.ipynb")}
        self.manager.start_kernel(cwd=str(FOLDER), env={**os.environ, **ON_CPU, **own})
        self.client: BlockingKernelClient = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=PATIENCE)

    def run(self, source: str) -> Said:
        """Run a cell; interrupt it when it prints `WAITING`."""
        out: list[str] = []
        pictures: list[bytes] = []

        def heard(message: dict[str, Any]) -> None:
            content = message["content"]
            if content.get("name") == "stdout":
                out.append(content["text"])
                if WAITING in content["text"]:
                    self.manager.interrupt_kernel()
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

    def run_all(self, cells: list[str]) -> list[Said]:
        """Run cells in order up to the first error, as Run All does."""
        said: list[Said] = []
        while len(said) < len(cells) and not (said and said[-1].error):
            said.append(self.run(cells[len(said)]))
        return said

    def good(self, cells: list[str]) -> list[Said]:
        """Run cells in order; none may end in an error."""
        said = self.run_all(cells)
        assert not said[-1].error, said[-1].shown
        return said

    def held(self) -> dict[str, Any]:
        """Return the runs that the kernel holds, before and after it collects garbage; tensors."""
        return dict(ast.literal_eval(self.run(HELD).out))

    def arm(self, call: int, fault: str) -> None:
        """Let the step with this look at a gradient end in a fault; once."""
        assert not self.run(ARMED.format(call=call, fault=FAULTS[fault][0])).error


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
FAULTS = {  # and what the run then ends in
    "an error": ("raise ValueError('of the test')", "ValueError: of the test"),
    "no memory": ("import torch; torch.empty(2**60, dtype=torch.uint8)",
        "DefaultCPUAllocator: can't allocate memory"),
    "a wait": (f"import time; print({WAITING!r}, flush=True); time.sleep({PATIENCE})",
        "KeyboardInterrupt: stopped; finished epochs are kept in"),
}  # fmt: skip


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
    """Return the cells that a chapter's run needs; it has two epochs, so as to go on."""
    cells = whole(name, **{**SMALL[name], "epochs": 2, "run_dir": str(run_dir), **parameters})
    after = guard_of(cells) + 1
    kept = [cell for cell in cells[after:] if any(word in cell for word in SHORT_PATH[name])]
    return [*cells[:after], UNTOLD, *kept]


SEARCHED = {"epochs": 1, "channels": 4, "layers": 3, "nodes": 4, "batch_size": 64}
"""The search that chapter 04 reads: its own would be the laptop's, of a minute."""
LEFT_OUT = {
    "03_search": ("def descend(", "def loss_of(", "def searched_chain(", "end = None"),
    "06_recurrent_cells": ("def by_hand(cell", "corpus = text"),
}
"""A chapter's proofs, from one cell to before another: long, and no part of its run."""


def alike(one: bytes, other: bytes) -> bool:
    """Say whether two PNG show the same: the inline backend rounds a pixel's edge now and then."""
    first, second = (np.asarray(Image.open(BytesIO(png)), dtype=int) for png in (one, other))
    return first.shape == second.shape and abs(first - second).max() <= 2


@pytest.mark.parametrize("name", SMALL)
def test_cells_run_twice_give_the_same_figures(name: str, kernel: Kernel, tmp_path: Path) -> None:
    kernel.run("%reset -f")
    given = {"run_dir": str(tmp_path / "run")} if name > "03" else {}
    if name == "04_genotype":
        kernel.good([*short("03_search", tmp_path / "run", **SEARCHED), "%reset -f"])
    cells = whole(name, **SMALL[name], **given)
    if name in LEFT_OUT:
        ends = [next(i for i, cell in enumerate(cells) if w in cell) for w in LEFT_OUT[name]]
        for first, after in reversed(list(zip(ends[::2], ends[1::2], strict=True))):
            del cells[first:after]
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


@pytest.mark.parametrize(("name", "second", "fault"), [
    ("03_search", 7, "a wait"), ("05_retrain", 4, "no memory"),
    ("06_recurrent_cells", 7, "an error"),
])  # fmt: skip
def test_a_run_that_fails_goes_on(
    name: str, second: int, fault: str, kernel: Kernel, tmp_path: Path
) -> None:
    """`second` is a look at a gradient in the second epoch: a search takes two in a step."""
    run = tmp_path / "run"
    kernel.good(short(name, tmp_path / "straight"))
    kernel.run("%reset -f")
    cells, held = short(name, run), []
    for call in (second, 2, 2):  # and twice more where it goes on
        kernel.arm(call, fault)
        failed = kernel.run_all(cells)[-1]
        assert FAULTS[fault][1] in failed.error
        held.append(kernel.held())
        assert held[-1]["at_once"] == [], "the last error holds no supernet"
        assert held[-1]["bars"] == 0
    assert held[2] == held[1], "neither tensors nor bytes grow"
    if fault == "a wait":
        assert failed.shown.splitlines() == [failed.error]
        assert str(run) in failed.error
        assert "run the same cell or command to go on" in failed.error

    said = "".join(one.out for one in kernel.good(cells))
    assert f"resuming at epoch 2 from {run}" in said
    assert "waiting for it" not in said, "the lock was let go"
    assert kernel.held()["runs"] == []
    assert differences(run, tmp_path / "straight") == []


def test_a_wrong_cell_ends_papermill_in_one_line(tmp_path: Path, runs_root: Path) -> None:
    """A misspelt parameter of a search does the same in .ci/run."""
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "--log-level", "WARNING"]
    command += ["--stdout-file", "-", "--stderr-file", "-", "-k", "python3"]
    command += [str(FOLDER / "05_retrain.ipynb"), str(tmp_path / "out.ipynb")]
    done = subprocess.run(
        [*command, "-p", "genotype", "DARTS_V3"],
        cwd=FOLDER, env={**os.environ, **ON_CPU}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode != 0
    said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    line = r"^SettingsError: unknown genotype 'DARTS_V3'.*DARTS_V2"
    assert re.search(line, said, re.MULTILINE), said[-3000:]
    assert list(runs_root.iterdir()) == [], "nothing is made"
