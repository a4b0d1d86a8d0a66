"""Run folders with a toy run: whatever happens, the same command ends in the same bits.

That a run which was stopped goes on, and which files it leaves, is tested of every kind of run in
test_kinds.py; how it ends in test_run.py.
"""

import contextlib
import errno
import functools
import json
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzz_tools import refusal_of
from same_bits import bits, digest
from toy_run import CELL, Killed, ToyConfig, end, kill_after, killed, toy, toy_config

from darts_lib import __version__
from darts_lib.derivation import genotypes_of
from darts_lib.engine import opening
from darts_lib.engine.files import pack, unpack
from darts_lib.engine.folder import read_alphas, read_history, read_json
from darts_lib.engine.opening import default_folder, opened
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.settings import RunConfig
from darts_lib.search import SearchConfig

DERIVED = ("history.jsonl", "alphas.npz", "genotype.json")
Said = Callable[[], str]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of four epochs that was never stopped."""
    path = tmp_path_factory.mktemp("straight") / "run"
    toy(toy_config(path))
    return path


def refused(config: RunConfig, *words: str) -> str:
    """Return the one line in which a folder is refused, which has the words."""

    def enter() -> None:
        with opened(config):
            pass

    return refusal_of(enter, *words)


def contents(path: Path) -> dict[str, tuple[bytes, int]]:
    return {file.name: (digest(file), file.stat().st_mtime_ns) for file in path.iterdir()}


def ends_as(config: ToyConfig, straight: Path) -> bool:
    """Go on with a run; say whether its end is that of the run which was never stopped."""
    return end(toy(config).path) == end(straight)


# What is in a folder ----------------------------------------------------------------------------


def test_a_finished_folder_holds_what_the_design_says(straight: Path) -> None:
    names = {"config.json", "checkpoint.pt", "checkpoint.previous.pt", "result.json", *DERIVED}
    assert {file.name for file in straight.iterdir()} == names
    settings = read_json(straight / "config.json")["settings"]
    assert (settings["kind"], settings["dataset"], settings["epochs"]) == ("toy", "digits", 4)
    assert [str(cell) for cell in genotypes_of(read_history(straight))] == [str(CELL)] * 4
    alphas, state = read_alphas(straight)["normal"], unpack(straight / "checkpoint.pt")
    assert (alphas.shape, bool(alphas[0].any())) == ((5, 2, 8), False)
    assert torch.equal(alphas[4], state["state"]["alphas"]["normal"])
    assert state["threads"] == torch.get_num_threads()
    assert read_json(straight / "genotype.json") == CELL.to_dict()
    result = read_json(straight / "result.json")
    assert result["library"] == __version__
    assert {"device", "threads", "torch", "python"} <= set(result["machine"])


def test_the_default_folder_is_named_after_the_settings_that_matter(runs_root: Path) -> None:
    folder = default_folder(toy_config())
    assert (folder.parent, folder.name[:11]) == (runs_root, "toy-digits-")
    assert default_folder(toy_config(resume=False, data_root="/d: d")) == folder
    others = [{"epochs": 5}, {"seed": 1}, {"batch_size": 32}, {"max_steps": 4}]
    assert len({default_folder(toy_config(**other)) for other in [{}, *others]}) == 5


def test_two_folders_of_pictures_are_two_runs(tmp_path: Path) -> None:
    def name(root: str) -> str:
        return default_folder(toy_config(dataset="folder", data_root=str(tmp_path / root))).name

    assert name("a") != name("b") == name("a/../b")
    assert ":" not in name("a: b"), "which Windows refuses"


# Stopped and continued --------------------------------------------------------------------------


def test_what_is_made_from_the_checkpoint_is_made_again(
    path: Path, straight: Path, said: Said
) -> None:
    config = killed(path, 4)
    for name in DERIVED:
        (path / name).write_bytes(b"cut o")
    assert ends_as(config, straight)
    assert f"resuming at epoch 5 from {path}" in said()
    assert bits(read_history(path)) == bits(read_history(straight))
    assert [digest(path / name) for name in DERIVED[1:]] == [
        digest(straight / name) for name in DERIVED[1:]
    ]


@pytest.mark.parametrize("call", range(7))
def test_a_kill_at_any_moment_of_a_save_loses_nothing(
    call: int, path: Path, straight: Path
) -> None:
    """A save renames six times: the new checkpoint thrice, then what is made from it."""
    config, names = killed(path, 2), []
    rename = os.replace

    def replace(source: Path, target: Path) -> None:
        if len(names) == call:
            raise Killed
        names.append(Path(target).name)
        rename(source, target)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        toy(config, lambda epoch: epoch == 3 and patch.setattr(os, "replace", replace))
    saved = ["checkpoint.next.pt", "checkpoint.previous.pt", "checkpoint.pt"]
    assert names == [*saved, *DERIVED, "result.json"][:call]
    (path / ".checkpoint.next.pt.99999.part").write_bytes(b"half")
    assert ends_as(config, straight)
    assert len(read_history(path)) == 4
    assert list(path.glob(".*.part")) == [], "swept"


def harm(file: Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    harmed = {"truncated": content[: len(content) // 2], "empty": b"", "bit flipped": content}
    file.write_bytes(harmed[how])


@pytest.mark.parametrize("how", ["truncated", "empty", "bit flipped"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    how: str, path: Path, straight: Path, said: Said
) -> None:
    config, epochs = killed(path, 3), []
    harm(path / "checkpoint.pt", how)
    with pytest.raises(Killed):
        toy(config, kill_after(3))
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        unpack(path / name)  # the damaged one has not taken the place of the good one
    line = next(line for line in said().splitlines() if f"{path / 'checkpoint.pt'}" in line)
    assert "it is now checkpoint.pt.damaged" in line
    toy(config, epochs.append)
    assert epochs == [4]
    assert end(path) == end(straight)


def test_two_damaged_checkpoints_begin_anew_and_say_so(
    path: Path, straight: Path, said: Said
) -> None:
    config = killed(path, 3)
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        harm(path / name, "truncated")
    assert ends_as(config, straight)
    assert "no good checkpoint is left" in said()


def test_the_thread_count_of_the_beginning_is_restored(path: Path, said: Said) -> None:
    config = killed(path, 1)
    torch.set_num_threads(2)
    toy(config)
    assert torch.get_num_threads() == 1
    assert "using 1 threads, as the run began" in said()


# Finished, other, older, newer ------------------------------------------------------------------


def test_a_finished_run_is_read_back_and_nothing_is_touched(straight: Path, said: Said) -> None:
    before = contents(straight)
    result = toy(toy_config(straight), kill_after(1))
    assert (result.genotype, len(result.history)) == (CELL, 4)
    assert result.alphas["normal"].shape == (5, 2, 8)
    assert contents(straight) == before
    line = f"finished already; read back from {straight}\n"
    assert said() == line
    file = straight / "result.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "library": "0.0.1"}))
    toy(toy_config(straight))
    assert f"was made by darts_lib 0.0.1, not {__version__}.\n{line}" in said()


@pytest.mark.parametrize("last", [1, 4])
def test_other_settings_are_refused_and_listed(last: int, path: Path) -> None:
    killed(path, last)
    before = contents(path)
    assert refused(toy_config(path, seed=5, batch_size=32)) == (
        f"{path} was made with other settings (batch_size 64 there, 32 here; seed 0 there, 5 here)"
        "; give another run_dir, or resume=False to move that run aside."
    )
    search = SearchConfig.create(scale="laptop", run_dir=str(path))
    refused(search, "kind 'toy' there, 'search' here")
    assert contents(path) == before


@pytest.mark.parametrize("name", ["config.json", "checkpoint.pt"])
@pytest.mark.parametrize(("version", "age"), [(0, "older"), (None, "older"), (99, "newer")])
def test_another_format_is_refused_and_left_alone(
    name: str, version: int | None, age: str, path: Path, straight: Path
) -> None:
    config, file = killed(path, 2), path / name
    content = {**(read_json(file) if name == "config.json" else unpack(file)), "format": version}
    file.write_bytes(json.dumps(content).encode() if name == "config.json" else pack(content))
    before, words = contents(path), f"{file} has format {version!r}, of a"
    refusal_of(lambda: toy(config), words, age, "resume=False")
    assert contents(path) == before
    assert ends_as(config.model_copy(update={"resume": False}), straight), "the way out"


def test_resume_false_moves_earlier_runs_aside(path: Path, straight: Path, said: Said) -> None:
    killed(path, 2)
    before, fresh = contents(path), toy_config(path, resume=False)
    with pytest.raises(Killed):
        toy(fresh, kill_after(1))
    assert ends_as(fresh, straight)
    assert contents(Path(f"{path}.before-1")) == before
    assert len(read_history(Path(f"{path}.before-2"))) == 1
    assert f"the earlier run is now {path}.before-2" in said()


@pytest.mark.parametrize(("name", "warned"), [("holiday.png", True), ("out.ipynb", False)])
def test_a_folder_of_other_things_is_pointed_out_and_never_moved(
    name: str, warned: bool, path: Path, said: Said
) -> None:
    path.mkdir()
    for file in (name, ".hidden"):
        (path / file).write_bytes(b"x")
    line = f"warning: run_dir {path} already holds other things (1, such as {name});"
    toy(toy_config(path, resume=False))
    assert (line in said()) == warned
    assert (path / name).exists()
    assert not Path(f"{path}.before-1").exists()
    toy(toy_config(path))
    assert line not in said()


def test_a_refused_run_leaves_nothing_and_a_started_one_stays(tmp_path: Path, path: Path) -> None:
    def without_data(path: Path, **given: object) -> None:
        with pytest.raises(SettingsError, match="no data"), opened(toy_config(path, **given)):
            raise SettingsError("no data")

    without_data(tmp_path / "new", epochs=9)
    assert not (tmp_path / "new").exists()
    toy(toy_config(tmp_path / "new"))  # with other settings: nothing was kept of the first
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").touch()
    without_data(tmp_path / "used")
    assert [file.name for file in (tmp_path / "used").iterdir()] == ["notes.txt"]
    killed(path, 2)
    before = contents(path)
    without_data(path)
    assert contents(path) == before


def test_a_run_in_the_current_folder_works_too(
    path: Path, straight: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.mkdir()
    monkeypatch.chdir(path)
    assert ends_as(toy_config(".", resume=False), straight)
    assert (path / "result.json").exists()


def test_a_file_in_the_way_is_named(path: Path) -> None:
    path.write_text("mine")
    refused(toy_config(path), f"run_dir {path} is a file; give another run_dir")
    refused(toy_config(path / "below"), f"run_dir {path}")


@pytest.mark.parametrize("name", ["checkpoint.pt", "checkpoint.previous.pt", "result.json"])
def test_a_checkpoint_without_its_settings_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    refused(toy_config(tmp_path), "has a checkpoint but no config.json")


# Two processes, disks that refuse ---------------------------------------------------------------


def test_a_folder_in_use_is_refused_after_the_wait_naming_its_owner(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch, said: Said
) -> None:
    config = killed(path, 2)
    before = contents(path)
    ready, done = os.pipe(), os.pipe()
    owner = os.fork()
    if not owner:  # the child holds the folder until the pipe is closed
        os.close(done[1])
        with opened(config):
            os.write(ready[1], b"x")
            os.read(done[0], 1)
        os._exit(0)
    try:
        os.read(ready[0], 1)
        monkeypatch.setattr(opening, "locked", functools.partial(opening.locked, wait=0.3))
        link, words = tmp_path / "link", f"run folder {path} is in use by process {owner} on "
        link.symlink_to(path)
        for name in (path, link, tmp_path / "x" / ".." / "run"):
            refused(toy_config(name, resume=False), words)
            assert "waiting for it" in said()
        assert contents(path) == before
    finally:
        for fd in (*done, *ready):
            os.close(fd)
        os.waitpid(owner, 0)
    toy(config)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Callable[[str], None]]]:
    """Mount a 1 MB tmpfs, or skip; give it and what mounts it again with other options."""

    def mount(options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(tmp_path / "disk")]
        with contextlib.suppress(OSError):
            return subprocess.run(command, capture_output=True, check=False).returncode == 0
        return False

    def remount(options: str) -> None:
        assert mount(f"remount,{options}")

    (tmp_path / "disk").mkdir()
    if not mount("size=1m"):
        pytest.skip("this machine lets no test mount a tmpfs; the RLIMIT_FSIZE test still runs")
    yield tmp_path / "disk", remount
    subprocess.run(["umount", str(tmp_path / "disk")], check=True)


@contextlib.contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """Let every write beyond `size` bytes fail with EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def assert_untouched(path: Path, message: str, before: str) -> None:
    words = [str(path / "checkpoint.next.pt"), "0.1 MB needed", "run the same command again"]
    assert all(each in message for each in words)
    assert digest(path / "checkpoint.pt") == before
    assert not any("next" in file.name or "part" in file.name for file in path.iterdir())


def test_a_full_disk_keeps_the_checkpoint_and_the_same_command_goes_on(
    disk: tuple[Path, Any], straight: Path
) -> None:
    path, filler, newest = disk[0] / "run", disk[0] / "filler", []

    def fill(epoch: int) -> None:
        if epoch == 2:
            newest.append(digest(path / "checkpoint.pt"))
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass

    assert_untouched(path, refusal_of(lambda: toy(toy_config(path), fill), "disk is full"), *newest)
    refusal_of(lambda: toy(toy_config(path)), "disk is full")  # again without room
    assert [digest(path / "checkpoint.pt")] == newest
    filler.unlink()
    assert ends_as(toy_config(path), straight)


def test_a_size_limit_keeps_the_checkpoint_and_the_same_command_goes_on(
    path: Path, straight: Path
) -> None:
    config = killed(path, 2)
    before = digest(path / "checkpoint.pt")
    with no_file_above(50_000):
        message = refusal_of(lambda: toy(config), "size limit")
    assert_untouched(path, message, before)
    assert ends_as(config, straight)


def test_a_folder_that_cannot_be_written_is_refused_before_the_first_epoch(path: Path) -> None:
    epochs: list[int] = []
    with no_file_above(1):
        refusal_of(lambda: toy(toy_config(path), epochs.append), "was not written")
    assert (epochs, path.exists()) == ([], False)


def test_a_run_that_was_killed_before_its_first_checkpoint_has_nothing_to_lose(path: Path) -> None:
    path.mkdir()
    (path / "config.json").write_text('{"format": 1, "settings": {"kind": "toy", "seed": 5}}')
    toy(toy_config(path))
    assert read_json(path / "config.json")["settings"]["seed"] == 0


def test_a_read_only_disk_is_named_and_a_finished_run_on_it_is_read_back(
    disk: tuple[Path, Any], straight: Path
) -> None:
    folder, remount = disk
    finished, new = toy_config(folder / "finished", epochs=1), folder / "new"
    toy(finished)
    config = killed(folder / "killed", 2)
    remount("ro")
    try:
        assert toy(finished).genotype == CELL
        refusal_of(lambda: toy(config), "read-only; give another run_dir")
        refused(toy_config(new), f"run_dir {new} cannot be used")
        refused(finished.model_copy(update={"resume": False}), "cannot be used")
    finally:
        remount("rw")
    assert ends_as(config, straight)


def test_an_injected_read_only_error_is_named_too(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", fail)
    refused(toy_config(path), f"run_dir {path} cannot be used (Read-only file system)")


# Reading what another step made -----------------------------------------------------------------


@pytest.mark.parametrize(("name", "read", "contents"), [
    ("history.jsonl", read_history, [b'{"epoch": 1}\n{"epo', b"\xff\xfe", b"[1]\n"]),
    ("alphas.npz", read_alphas, [500, b"", bytes(100)]),
    ("result.json", lambda path: read_json(path / "result.json"), [b'{"a": ', b"[1]", b"\xff"]),
])  # fmt: skip
def test_a_file_that_is_missing_or_damaged_is_named(
    name: str, read: Callable[[Path], object], contents: list[Any], tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=r"no history.jsonl|no alphas.npz|cannot be read"):
        read(tmp_path)
    np.savez(tmp_path / "alphas.npz", normal=np.zeros((2, 14, 8), np.float32))
    whole = (tmp_path / "alphas.npz").read_bytes()
    for content in contents:
        (tmp_path / name).write_bytes(whole[:content] if isinstance(content, int) else content)
        refusal_of(lambda: read(tmp_path), name)
