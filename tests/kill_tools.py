"""Tiny runs in processes of their own, to be killed: how they start, are stopped, are compared.

What costs time here is starting Python and importing torch. So one process imports the library
once, computes nothing and starts no thread, and each run is a fork of it: multiprocessing's fork
server.
"""

import contextlib
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import picture_tools
import torch
from kind_tools import KINDS, end_of, write_text
from toy_run import toy, toy_config

from darts_lib.engine.files import DamagedFileError, unpack
from darts_lib.engine.folder import CHECKPOINTS, read_history

PATIENCE = 300.0
"""Seconds after which a run that neither ends nor goes on is a failure."""

FORKS = multiprocessing.get_context("forkserver")
# What a run loads, late ones too.
FORKS.set_forkserver_preload(["kill_tools", "darts_lib.data.data_sets", "torch._dynamo"])


@dataclass(frozen=True)
class TinyRun:
    """A run that can be started again and again, always with the same settings."""

    kind: str
    path: Path
    epochs: int

    @property
    def log(self) -> Path:
        """Name the file of what all its processes print."""
        return self.path.with_suffix(".log")

    def finish(self) -> None:
        """Start it and wait for its end, which must be a good one."""
        assert ended(begun(self.log, command, self)) == 0, self.log.read_text()

    def is_finished(self) -> bool:
        return (self.path / "result.json").exists()

    def seen(self) -> int:
        """Return the number of finished epochs while it runs; never too many."""
        file = self.path / "history.jsonl"
        return file.read_bytes().count(b"\n") if file.exists() else 0

    def kept(self) -> int:
        """Return the number of finished epochs in the newest good checkpoint; nothing runs now."""
        for name in CHECKPOINTS:
            with contextlib.suppress(DamagedFileError, FileNotFoundError):
                return len(unpack(self.path / name)["history"])
        return 0


def begun(log: Path, action: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """Do something in a process of its own, which prints into a file; return the process."""
    process = FORKS.Process(target=work, args=(log, action, *arguments), daemon=True)
    process.start()
    return process


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.001)


def ended(process: ForkServerProcess) -> int | None:
    """Wait for a process; return 0, or minus the signal that ended it."""
    process.join(PATIENCE)
    assert process.exitcode is not None, "the process neither ends nor goes on"
    return process.exitcode


def work(log: Path, action: Callable[..., None], *arguments: Any) -> None:
    """Do something in the other process as a command does it; Ctrl-C ends it as it ends Python."""
    os.environ["no_proxy"] = "127.0.0.1"
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # under nohup it would be ignored
    multiprocessing.set_start_method("fork", force=True)  # tqdm's lock then leaves nothing behind
    with open(log, "a", buffering=1) as file, contextlib.ExitStack() as to:
        to.enter_context(contextlib.redirect_stdout(file))
        to.enter_context(contextlib.redirect_stderr(file))
        try:
            action(*arguments)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)


def command(run: TinyRun) -> None:
    """Search or retrain, and say so."""
    given = {"device": "cpu", "epochs": run.epochs, "run_dir": str(run.path)}
    if run.kind == "toy":
        toy(toy_config(**given))
    else:
        make(run.kind, run.path.parent, **given)


def make(name: str, data: Path, on_epoch: Any = None, **given: Any) -> None:
    """Make a run of a kind, on the data that `write_data` has written into a folder."""
    kind = KINDS[name]
    root = data / ("text" if "recurrent" in name else "pictures")
    kind.go(kind.config.create(**{**kind.given, "data_root": str(root), **given}), on_epoch)


def write_data(folder: Path) -> Path:
    """Write the text and the pictures that the kinds of run read; return their folder."""
    (folder / "text").mkdir()
    write_text(folder / "text")
    picture_tools.make(folder / "pictures")
    return folder


def stop_at_random(run: TinyRun, numbers: random.Random, number: signal.Signals) -> int | None:
    """Start it and send a signal one or two epochs on and a bit; return the epochs that are kept.

    None is a signal that does not count: the process had ended, the run was finished, or no epoch
    was finished since the last time.
    """
    before, process = run.kept(), begun(run.log, command, run)
    wanted = before + numbers.randint(1, 2)
    wait_for(lambda: not process.is_alive() or run.seen() >= wanted, f"epoch {wanted} of {run}")
    seen = run.seen()
    if seen:
        time.sleep(1.5 * numbers.random() * read_history(run.path)[-1]["seconds"])  # or in a save
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid or 0, number)
    code, kept = ended(process), run.kept()
    assert code in (0, -number), run.log.read_text()
    assert kept >= seen, f"{seen} epochs were finished, {kept} are kept"
    return kept if code == -number and not run.is_finished() and kept > before else None


def differences(path: Path, other: Path) -> list[str]:
    """Return the names of the files that are not the same, to the bit, at the end of two runs."""
    here, there = end_of(path), end_of(other)
    return sorted(name for name in {*here, *there} if here.get(name) != there.get(name))
