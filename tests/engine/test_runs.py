"""Run folders with a toy run: whatever happens, the same command ends in the same bits."""

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
from same_bits import bits, digest
from toy_run import CELL, Killed, ToyConfig, end, kill_after, killed, toy, toy_config

from darts_lib import __version__
from darts_lib.derivation import genotypes_of
from darts_lib.engine import opening
from darts_lib.engine.files import pack, unpack
from darts_lib.engine.folder import Progress, RunFolder, read_alphas, read_history, read_json
from darts_lib.engine.opening import default_folder, opened
from darts_lib.engine.refusals import SettingsError
from darts_lib.search import SearchConfig

DERIVED = ("history.jsonl", "alphas.npz", "genotype.json")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of four epochs that was never stopped."""
    path = tmp_path_factory.mktemp("straight") / "run"
    toy(toy_config(path))
    return path


def refusal(config: Any) -> str:
    with pytest.raises(SettingsError) as caught, opened(config):
        pass
    message = str(caught.value)
    assert "\n" not in message
    return message


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
    history = read_history(straight)
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert [str(cell) for cell in genotypes_of(history)] == [str(CELL)] * 4
    alphas, state = read_alphas(straight)["normal"], unpack(straight / "checkpoint.pt")
    assert alphas.shape == (5, 2, 8)
    assert not alphas[0].any()
    assert torch.equal(alphas[4], state["state"]["alphas"]["normal"])
    assert state["threads"] == torch.get_num_threads()
    assert read_json(straight / "genotype.json") == CELL.to_dict()
    result = read_json(straight / "result.json")
    assert result["library"] == __version__
    assert {"device", "threads", "torch", "python"} <= set(result["machine"])


def test_a_run_without_alphas_or_cells_has_no_files_of_them(runs_root: Path) -> None:
    RunFolder(runs_root).save({}, Progress([{"epoch": 1}]))
    names = {file.name for file in runs_root.iterdir()}
    assert names == {"config.json", "checkpoint.pt", "history.jsonl"}


def test_recorded_alphas_are_copies() -> None:
    alphas, progress = {"normal": torch.zeros(2, 8)}, Progress()
    progress.record_alphas(alphas)
    alphas["normal"] += 1
    assert not progress.alphas["normal"][0].any()


def test_the_default_folder_is_named_after_the_settings_that_matter(runs_root: Path) -> None:
    folder = default_folder(toy_config())
    assert folder.parent == runs_root
    assert folder.name.startswith("toy-digits-")
    assert default_folder(toy_config(resume=False, data_root="/d: d")) == folder
    others = [{"epochs": 5}, {"seed": 1}, {"batch_size": 32}, {"max_steps": 4}]
    assert len({default_folder(toy_config(**other)) for other in [{}, *others]}) == 5


def test_two_folders_of_pictures_are_two_runs(tmp_path: Path) -> None:
    def name(root: str) -> str:
        return default_folder(toy_config(dataset="folder", data_root=str(tmp_path / root))).name

    assert name("a") != name("b")
    assert name("b") == name("a/../b")
    assert ":" not in name("a: b"), "which Windows refuses"


# Stopped and continued --------------------------------------------------------------------------


@pytest.mark.parametrize("last", [1, 3, 4])
def test_a_killed_run_goes_on_to_the_same_bits(
    last: int, tmp_path: Path, straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = killed(tmp_path / "run", last)
    for name in DERIVED if last == 4 else ():  # what is made from the checkpoint is made again
        (tmp_path / "run" / name).write_bytes(b"cut o")
    assert ends_as(config, straight)
    assert f"resuming at epoch {last + 1} from {tmp_path / 'run'}" in capsys.readouterr().out
    assert bits(read_history(tmp_path / "run")) == bits(read_history(straight))
    for name in DERIVED[1:]:
        assert digest(tmp_path / "run" / name) == digest(straight / name)


@pytest.mark.parametrize("call", range(7))
def test_a_kill_at_any_moment_of_a_save_loses_nothing(
    call: int, tmp_path: Path, straight: Path
) -> None:
    """A save renames six times: the new checkpoint thrice, then what is made from it."""
    config, names = killed(tmp_path / "run", 2), []
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
    left = tmp_path / "run" / ".checkpoint.next.pt.99999.part"
    left.write_bytes(b"half")
    assert ends_as(config, straight)
    assert len(read_history(tmp_path / "run")) == 4
    assert list((tmp_path / "run").glob(".*.part")) == [], "swept"


def harm(file: Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    harmed = {"truncated": content[: len(content) // 2], "empty": b"", "bit flipped": content}
    file.write_bytes(harmed[how])


@pytest.mark.parametrize("how", ["truncated", "empty", "bit flipped"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    how: str, tmp_path: Path, straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run"
    config, epochs = killed(path, 3), []
    harm(path / "checkpoint.pt", how)
    with pytest.raises(Killed):
        toy(config, kill_after(3))
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        unpack(path / name)  # the damaged one has not taken the place of the good one
    said = capsys.readouterr().out
    assert f"{path / 'checkpoint.pt'}" in said
    assert "it is now checkpoint.pt.damaged" in said
    toy(config, epochs.append)
    assert epochs == [4]
    assert end(path) == end(straight)


def test_two_damaged_checkpoints_begin_anew_and_say_so(
    tmp_path: Path, straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = killed(tmp_path / "run", 3)
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        harm(tmp_path / "run" / name, "truncated")
    assert ends_as(config, straight)
    assert "no good checkpoint is left" in capsys.readouterr().out


def test_the_thread_count_of_the_beginning_is_restored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = killed(tmp_path / "run", 1)
    torch.set_num_threads(2)
    toy(config)
    assert torch.get_num_threads() == 1
    assert "using 1 threads, as the run began" in capsys.readouterr().out


# Finished, other, older, newer ------------------------------------------------------------------


def test_a_finished_run_is_read_back_and_nothing_is_touched(
    straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(straight)
    result = toy(toy_config(straight), kill_after(1))
    assert (result.genotype, len(result.history)) == (CELL, 4)
    assert result.alphas["normal"].shape == (5, 2, 8)
    assert contents(straight) == before
    said = f"finished already; read back from {straight}\n"
    assert capsys.readouterr().out == said
    file = straight / "result.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "library": "0.0.1"}))
    toy(toy_config(straight))
    assert f"was made by darts_lib 0.0.1, not {__version__}.\n{said}" in capsys.readouterr().out


@pytest.mark.parametrize("last", [1, 4])
def test_other_settings_are_refused_and_listed(last: int, tmp_path: Path) -> None:
    path = tmp_path / "run"
    killed(path, last)
    before = contents(path)
    message = refusal(toy_config(path, seed=5, batch_size=32))
    assert f"{path} was made with other settings" in message
    assert "batch_size 64 there, 32 here; seed 0 there, 5 here" in message
    assert "epochs" not in message
    assert "another run_dir" in message
    assert "resume=False" in message
    search = SearchConfig.create(scale="laptop", run_dir=str(path))
    assert "kind 'toy' there, 'search' here" in refusal(search)
    assert contents(path) == before


@pytest.mark.parametrize("name", ["config.json", "checkpoint.pt"])
@pytest.mark.parametrize(("version", "age"), [(0, "older"), (None, "older"), (99, "newer")])
def test_another_format_is_refused_and_left_alone(
    name: str, version: int | None, age: str, tmp_path: Path, straight: Path
) -> None:
    config = killed(tmp_path / "run", 2)
    file = tmp_path / "run" / name
    content = read_json(file) if name == "config.json" else unpack(file)
    content["format"] = version
    file.write_bytes(json.dumps(content).encode() if name == "config.json" else pack(content))
    before = contents(tmp_path / "run")
    with pytest.raises(SettingsError) as caught:
        toy(config)
    message = str(caught.value)
    assert f"{file} has format {version!r}, of a" in message
    assert age in message
    assert contents(tmp_path / "run") == before
    assert "resume=False" in message
    assert ends_as(config.model_copy(update={"resume": False}), straight), "the way out"


def test_resume_false_moves_earlier_runs_aside(
    tmp_path: Path, straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run"
    killed(path, 2)
    before, fresh = contents(path), toy_config(path, resume=False)
    with pytest.raises(Killed):
        toy(fresh, kill_after(1))
    assert ends_as(fresh, straight)
    assert contents(tmp_path / "run.before-1") == before
    assert len(read_history(tmp_path / "run.before-2")) == 1
    assert f"the earlier run is now {path}.before-2" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "warned"), [("holiday.png", True), ("out.ipynb", False)])
def test_a_folder_of_other_things_is_pointed_out_and_never_moved(
    name: str, warned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run"
    path.mkdir()
    (path / name).write_bytes(b"x")
    (path / ".hidden").touch()
    line = f"warning: run_dir {path} already holds other things (1, such as {name});"
    toy(toy_config(path, resume=False))
    assert (line in capsys.readouterr().out) == warned
    assert (path / name).exists()
    assert not (tmp_path / "run.before-1").exists()
    toy(toy_config(path))
    assert line not in capsys.readouterr().out


def test_a_refused_run_leaves_nothing_and_a_started_one_stays(tmp_path: Path) -> None:
    def refused(path: Path) -> None:
        with pytest.raises(SettingsError, match="no data"), opened(toy_config(path, epochs=9)):
            raise SettingsError("no data")

    refused(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    toy(toy_config(tmp_path / "new"))  # with other settings: nothing was kept of the first
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").touch()
    refused(tmp_path / "used")
    assert [file.name for file in (tmp_path / "used").iterdir()] == ["notes.txt"]
    config = killed(tmp_path / "run", 2)
    before = contents(tmp_path / "run")
    with pytest.raises(SettingsError), opened(config):
        raise SettingsError("no data")
    assert contents(tmp_path / "run") == before


def test_a_run_in_the_current_folder_works_too(
    tmp_path: Path, straight: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert ends_as(toy_config(".", resume=False), straight)
    assert (tmp_path / "here" / "result.json").exists()


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    message = refusal(toy_config(tmp_path / "run"))
    assert f"run_dir {tmp_path / 'run'} is a file; give another run_dir" in message
    assert f"run_dir {tmp_path / 'run'}" in refusal(toy_config(tmp_path / "run" / "below"))


@pytest.mark.parametrize("name", ["checkpoint.pt", "checkpoint.previous.pt", "result.json"])
def test_a_checkpoint_without_its_settings_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    assert "has a checkpoint but no config.json" in refusal(toy_config(tmp_path))


# Two processes, disks that refuse ---------------------------------------------------------------


def test_a_folder_in_use_is_refused_after_the_wait_naming_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = killed(tmp_path / "run", 2)
    before = contents(tmp_path / "run")
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
        link = tmp_path / "link"
        link.symlink_to(tmp_path / "run")
        for name in (tmp_path / "run", link, tmp_path / "x" / ".." / "run"):
            message = refusal(toy_config(name, resume=False))
            assert f"run folder {tmp_path / 'run'} is in use by process {owner} on " in message
            assert "waiting for it" in capsys.readouterr().out
        assert contents(tmp_path / "run") == before
    finally:
        for fd in (*done, *ready):
            os.close(fd)
        os.waitpid(owner, 0)
    toy(config)


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[Callable[[str], None]]:
    """Mount a 1 MB tmpfs, or skip; yields a function that mounts it again with other options."""

    def mount(options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        with contextlib.suppress(OSError):
            return subprocess.run(command, capture_output=True, check=False).returncode == 0
        return False

    def remount(options: str) -> None:
        assert mount(f"remount,{options}")

    folder.mkdir()
    if not mount("size=1m"):
        pytest.skip("this machine lets no test mount a tmpfs; the RLIMIT_FSIZE test still runs")
    try:
        yield remount
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextlib.contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """Let every write beyond `size` bytes fail with EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def assert_untouched(path: Path, message: str, before: bytes) -> None:
    assert str(path / "checkpoint.next.pt") in message
    assert "0.1 MB needed" in message
    assert "run the same command again" in message
    assert digest(path / "checkpoint.pt") == before
    assert not any("next" in file.name or "part" in file.name for file in path.iterdir())


def test_a_full_disk_keeps_the_checkpoint_and_the_same_command_goes_on(
    tmp_path: Path, straight: Path
) -> None:
    with mounted(tmp_path / "disk"):
        path, filler, newest = tmp_path / "disk" / "run", tmp_path / "disk" / "filler", []

        def fill(epoch: int) -> None:
            if epoch == 2:
                newest.append(digest(path / "checkpoint.pt"))
                with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                    while file.write(bytes(4096)):
                        pass

        with pytest.raises(SettingsError, match="disk is full") as caught:
            toy(toy_config(path), fill)
        assert_untouched(path, str(caught.value), newest[0])
        with pytest.raises(SettingsError, match="disk is full"):
            toy(toy_config(path))  # again without room: refused again, nothing lost
        assert digest(path / "checkpoint.pt") == newest[0]
        filler.unlink()
        assert ends_as(toy_config(path), straight)


def test_a_size_limit_keeps_the_checkpoint_and_the_same_command_goes_on(
    tmp_path: Path, straight: Path
) -> None:
    config = killed(tmp_path / "run", 2)
    before = digest(tmp_path / "run" / "checkpoint.pt")
    with no_file_above(50_000), pytest.raises(SettingsError, match="size limit") as caught:
        toy(config)
    assert_untouched(tmp_path / "run", str(caught.value), before)
    assert ends_as(config, straight)


def test_a_read_only_disk_is_named_and_a_finished_run_on_it_is_read_back(
    tmp_path: Path, straight: Path
) -> None:
    with mounted(tmp_path / "disk") as remount:
        disk = tmp_path / "disk"
        toy(toy_config(disk / "finished", epochs=1))
        config = killed(disk / "killed", 2)
        remount("ro")
        try:
            assert toy(toy_config(disk / "finished", epochs=1)).genotype == CELL
            with pytest.raises(SettingsError, match="read-only; give another run_dir"):
                toy(config)
            assert f"run_dir {disk / 'new'} cannot be used" in refusal(toy_config(disk / "new"))
            again = toy_config(disk / "finished", epochs=1, resume=False)
            assert "cannot be used" in refusal(again)
        finally:
            remount("rw")
        assert ends_as(config, straight)


def test_an_injected_read_only_error_is_named_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", fail)
    message = refusal(toy_config(tmp_path / "run"))
    assert f"run_dir {tmp_path / 'run'} cannot be used (Read-only file system)" in message


# Reading what another step made -----------------------------------------------------------------


def whole_alphas(path: Path) -> bytes:
    np.savez(path / "alphas.npz", normal=np.zeros((2, 14, 8), np.float32))
    return (path / "alphas.npz").read_bytes()


@pytest.mark.parametrize(
    ("name", "read", "contents"),
    [
        ("history.jsonl", read_history, [b'{"epoch": 1}\n{"epo', b"\xff\xfe", b"[1]\n"]),
        ("alphas.npz", read_alphas, [500, b"", bytes(100)]),
        ("result.json", lambda path: read_json(path / "result.json"), [b'{"a": ', b"[1]", b"\xff"]),
    ],
)
def test_a_file_that_is_missing_or_damaged_is_named(
    name: str, read: Callable[[Path], object], contents: list[Any], tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="no history.jsonl|no alphas.npz|cannot be read"):
        read(tmp_path)
    whole = whole_alphas(tmp_path)
    for content in contents:
        (tmp_path / name).write_bytes(whole[:content] if isinstance(content, int) else content)
        with pytest.raises(SettingsError, match=name):
            read(tmp_path)
