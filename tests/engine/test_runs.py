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
from same_bits import digest
from torch import Tensor

from darts_lib import __version__
from darts_lib.derivation import genotypes_of
from darts_lib.engine import opening
from darts_lib.engine.files import pack, unpack
from darts_lib.engine.folder import Progress
from darts_lib.engine.opening import default_folder, opened
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.run_files import read_alphas, read_history, read_json
from darts_lib.engine.settings import RunConfig
from darts_lib.genotype import PUBLISHED
from darts_lib.search_settings import SearchConfig

CELL = PUBLISHED["DARTS_V2"].to_dict()


def config(path: Path | str = "", **given: object) -> RunConfig:
    common = {"scale": "laptop", "dataset": "digits", "epochs": 4, "run_dir": str(path)}
    return RunConfig.create(**{**common, **given})


def toy_run(config: RunConfig, after: Callable[[int], None] = lambda epoch: None) -> Tensor:
    """Run with a state of one tensor (100 KB), as search and retrain do; call `after` epochs."""
    with opened(config) as folder:
        state = torch.linspace(0, 1, 25_000) + config.seed
        progress = Progress()
        if folder.result() is not None:
            return unpack(folder.path / "checkpoint.pt")["state"]["x"]  # type: ignore[index]
        stored = folder.load()
        if stored:
            state, progress = stored[0]["x"], stored[1]
        else:
            progress.record_alphas({"normal": state[:16].view(2, 8)})
        while progress.epochs < config.epochs:
            state = torch.sin(3 * state + progress.epochs)
            progress.history.append({"epoch": progress.epochs + 1, "genotype": CELL})
            progress.record_alphas({"normal": state[:16].view(2, 8)})
            folder.save({"x": state}, progress)
            after(progress.epochs)
        folder.finish({"loss": float(state.mean())})
    return state


@pytest.fixture
def straight(tmp_path: Path) -> Tensor:
    return toy_run(config(tmp_path / "straight"))


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the library catches it."""


def kill_after(last: int) -> Callable[[int], None]:
    def after(epoch: int) -> None:
        if epoch == last:
            raise Killed

    return after


def killed_run(path: Path, last: int) -> RunConfig:
    """Leave a run that was killed after epoch `last`; return its configuration."""
    settings = config(path)
    with pytest.raises(Killed):
        toy_run(settings, kill_after(last))
    return settings


def refusal(settings: RunConfig) -> str:
    with pytest.raises(SettingsError) as caught, opened(settings):
        pass
    message = str(caught.value)
    assert "\n" not in message
    return message


# What is in a folder ----------------------------------------------------------------------------


def test_a_finished_folder_holds_what_the_design_says(tmp_path: Path) -> None:
    path = tmp_path / "a" / "run"
    state = toy_run(config(path))
    assert {file.name for file in path.iterdir()} == {
        "config.json",
        "checkpoint.pt",
        "checkpoint.previous.pt",
        "history.jsonl",
        "alphas.npz",
        "genotype.json",
        "result.json",
    }
    settings = read_json(path / "config.json")["settings"]
    assert (settings["kind"], settings["dataset"], settings["epochs"]) == ("run", "digits", 4)
    history = read_history(path)
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert [str(cell) for cell in genotypes_of(history)] == [str(PUBLISHED["DARTS_V2"])] * 4
    alphas = read_alphas(path)["normal"]
    assert alphas.shape == (5, 2, 8)
    torch.testing.assert_close(alphas[0].flatten(), torch.linspace(0, 1, 25_000)[:16])
    assert torch.equal(alphas[4].flatten(), state[:16])
    assert read_json(path / "genotype.json") == CELL
    result = read_json(path / "result.json")
    assert result["library"] == __version__
    assert {"device", "threads", "torch", "python"} <= set(result["machine"])
    assert unpack(path / "checkpoint.pt")["threads"] == torch.get_num_threads()


def test_the_default_folder_is_named_after_the_settings_that_matter(runs_root: Path) -> None:
    folder = default_folder(config())
    assert folder.parent == runs_root
    assert folder.name.startswith("run-digits-")
    assert default_folder(config(resume=False, device="cpu")) == folder
    others = [config(epochs=5), config(seed=1), config(batch_size=32), config(max_steps=3)]
    assert len({default_folder(other) for other in [config(), *others]}) == 5


def test_two_folders_of_pictures_are_two_runs(tmp_path: Path) -> None:
    def folder(dataset: str, root: str) -> Path:
        given = RunConfig.create(scale="laptop", dataset=dataset, data_root=str(tmp_path / root))
        return default_folder(given)

    assert folder("folder", "a") != folder("folder", "b")
    assert folder("folder", "b") == folder("folder", "a/../b")
    assert folder("digits", "a") == folder("digits", "b"), "the same digits lie anywhere"


def test_recorded_alphas_are_copies() -> None:
    alphas, progress = {"normal": torch.zeros(2, 8)}, Progress()
    progress.record_alphas(alphas)
    alphas["normal"] += 1
    assert progress.alphas["normal"][0].abs().sum() == 0


# Stopped and continued --------------------------------------------------------------------------


@pytest.mark.parametrize("last", [1, 2, 3, 4])
def test_a_killed_run_goes_on_to_the_same_bits(
    last: int, tmp_path: Path, straight: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = killed_run(tmp_path / "run", last)
    assert torch.equal(toy_run(settings), straight)
    assert f"from {tmp_path / 'run'}" in capsys.readouterr().out
    for name in ("history.jsonl", "alphas.npz", "genotype.json"):
        there, here = tmp_path / "straight" / name, tmp_path / "run" / name
        assert digest(there) == digest(here)


@pytest.mark.parametrize("call", range(7))
def test_a_kill_at_any_moment_of_a_save_loses_nothing(
    call: int, tmp_path: Path, straight: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A save renames six times: the new checkpoint thrice, then what is made from it."""
    settings, names = killed_run(tmp_path / "run", 2), []
    rename = os.replace

    def replace(source: Path, target: Path) -> None:
        if len(names) == call:
            raise Killed
        names.append(Path(target).name)
        rename(source, target)

    def start_counting(epoch: int) -> None:
        if epoch == 3:
            monkeypatch.setattr(os, "replace", replace)

    with pytest.raises(Killed):
        toy_run(settings, start_counting)
    monkeypatch.undo()
    monkeypatch.setenv("DARTS_LIB_RUNS", str(tmp_path / "runs"))
    saved = ["checkpoint.next.pt", "checkpoint.previous.pt", "checkpoint.pt"]
    derived = ["history.jsonl", "alphas.npz", "genotype.json"]
    assert names == [*saved, *derived, "result.json"][:call]
    assert torch.equal(toy_run(settings), straight)
    assert len(read_history(tmp_path / "run")) == 4
    assert list((tmp_path / "run").glob(".*.part")) == []


def test_what_a_killed_writer_left_is_swept_by_the_next_run(tmp_path: Path) -> None:
    settings = killed_run(tmp_path / "run", 2)
    left = tmp_path / "run" / ".checkpoint.next.pt.99999.part"
    left.write_bytes(b"half")
    toy_run(settings)
    assert not left.exists()


def test_what_is_made_from_the_checkpoint_is_made_again(tmp_path: Path, straight: Tensor) -> None:
    settings = killed_run(tmp_path / "run", 4)
    for name in ("history.jsonl", "alphas.npz", "genotype.json"):
        (tmp_path / "run" / name).write_bytes(b"cut o")
    toy_run(settings)
    for name in ("history.jsonl", "alphas.npz", "genotype.json"):
        there, here = tmp_path / "straight" / name, tmp_path / "run" / name
        assert digest(there) == digest(here)


def harm(file: Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    if how == "bit flipped":
        content[len(content) // 2] ^= 4
    file.write_bytes({"truncated": content[: len(content) // 2], "empty": b""}.get(how, content))


@pytest.mark.parametrize("how", ["truncated", "empty", "bit flipped"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    how: str, tmp_path: Path, straight: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = killed_run(tmp_path / "run", 3)
    harm(tmp_path / "run" / "checkpoint.pt", how)
    epochs: list[int] = []
    assert torch.equal(toy_run(settings, epochs.append), straight)
    said = capsys.readouterr().out
    assert f"{tmp_path / 'run' / 'checkpoint.pt'}" in said
    assert "it is now checkpoint.pt.damaged" in said
    assert epochs == [3, 4], "one epoch is done again"


def test_a_damaged_checkpoint_never_takes_the_place_of_the_good_one(tmp_path: Path) -> None:
    settings = killed_run(tmp_path / "run", 2)
    harm(tmp_path / "run" / "checkpoint.pt", "truncated")
    with pytest.raises(Killed):
        toy_run(settings, kill_after(2))
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        unpack(tmp_path / "run" / name)


def test_two_damaged_checkpoints_begin_anew_and_say_so(
    tmp_path: Path, straight: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = killed_run(tmp_path / "run", 3)
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        harm(tmp_path / "run" / name, "truncated")
    assert torch.equal(toy_run(settings), straight)
    assert "no good checkpoint is left" in capsys.readouterr().out


def test_the_thread_count_of_the_beginning_is_restored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = killed_run(tmp_path / "run", 1)
    torch.set_num_threads(2)
    toy_run(settings)
    assert torch.get_num_threads() == 1
    assert "using 1 threads, as the run began" in capsys.readouterr().out


# Finished, other, older, newer ------------------------------------------------------------------


def contents(path: Path) -> dict[str, tuple[bytes, int]]:
    return {file.name: (digest(file), file.stat().st_mtime_ns) for file in path.iterdir()}


def test_a_finished_run_is_read_back_and_nothing_is_touched(
    tmp_path: Path, straight: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(tmp_path / "straight")
    assert torch.equal(toy_run(config(tmp_path / "straight"), kill_after(1)), straight)
    assert contents(tmp_path / "straight") == before
    assert "darts_lib" not in capsys.readouterr().out


def test_a_run_of_another_version_says_so(
    tmp_path: Path, straight: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "straight" / "result.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "library": "0.0.1"}))
    toy_run(config(tmp_path / "straight"))
    said = capsys.readouterr().out
    assert f"was made by darts_lib 0.0.1, not {__version__}." in said


@pytest.mark.parametrize("last", [1, 4])
def test_other_settings_are_refused_and_listed(last: int, tmp_path: Path) -> None:
    path = tmp_path / "run"
    killed_run(path, last)
    before = contents(path)
    message = refusal(config(path, seed=5, batch_size=32))
    search = SearchConfig.create(scale="laptop", run_dir=str(path))
    assert f"{path} was made with other settings" in message
    assert "batch_size 64 there, 32 here; seed 0 there, 5 here" in message
    assert "epochs" not in message
    assert "another run_dir" in message
    assert "resume=False" in message
    assert "kind 'run' there, 'search' here" in refusal(search)
    assert contents(path) == before


def test_a_run_that_failed_before_its_first_epoch_may_be_given_other_settings(
    tmp_path: Path,
) -> None:
    path = tmp_path / "run"
    with pytest.raises(KeyError), opened(config(path, batch_size=5000)):
        raise KeyError("too few pictures for one batch")
    toy_run(config(path))
    assert read_json(path / "config.json")["settings"]["batch_size"] == 64


@pytest.mark.parametrize("kind", ["config.json", "checkpoint.pt"])
@pytest.mark.parametrize(("version", "age"), [(0, "older"), (None, "older"), (99, "newer")])
def test_another_format_is_refused_and_left_alone(
    kind: str, version: int | None, age: str, tmp_path: Path, straight: Tensor
) -> None:
    settings = killed_run(tmp_path / "run", 2)
    file = tmp_path / "run" / kind
    if kind == "config.json":
        file.write_text(json.dumps({**read_json(file), "format": version}))
    else:
        file.write_bytes(pack({**unpack(file), "format": version}))
    before = contents(tmp_path / "run")
    with pytest.raises(SettingsError) as caught:
        toy_run(settings)
    message = str(caught.value)
    assert f"{file} has format {version!r}, of a" in message
    assert age in message
    assert "resume=False" in message
    assert contents(tmp_path / "run") == before
    fresh = settings.model_copy(update={"resume": False})
    assert torch.equal(toy_run(fresh), straight), "the way out that the message names"


def test_resume_false_moves_earlier_runs_aside(
    tmp_path: Path, straight: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run"
    killed_run(path, 2)
    before = contents(path)
    fresh = config(path, resume=False)
    with pytest.raises(Killed):
        toy_run(fresh, kill_after(1))
    assert torch.equal(toy_run(fresh), straight)
    assert contents(tmp_path / "run.before-1") == before
    assert len(read_history(tmp_path / "run.before-2")) == 1
    assert f"the earlier run is now {path}.before-2" in capsys.readouterr().out


def test_resume_false_moves_nothing_that_is_no_run(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir()
    (path / "holiday.png").write_bytes(b"x")
    toy_run(config(path, resume=False))
    assert (path / "holiday.png").exists()
    assert not (tmp_path / "run.before-1").exists()


@pytest.mark.parametrize(("name", "warned"), [("holiday.png", True), ("out.ipynb", False)])
def test_a_folder_of_other_things_is_pointed_out(
    name: str, warned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run"
    path.mkdir()
    (path / name).write_bytes(b"x")
    (path / ".hidden").touch()
    for first in (True, False):
        toy_run(config(path))
        line = f"warning: run_dir {path} already holds other things (1, such as {name});"
        assert (line in capsys.readouterr().out) == (warned and first)


def test_a_refused_run_leaves_nothing_and_a_started_one_stays(tmp_path: Path) -> None:
    def refused(path: Path) -> None:
        with pytest.raises(SettingsError, match="no data"), opened(config(path)):
            raise SettingsError(f"no data, {(path / 'config.json').stat().st_size} bytes")

    refused(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").touch()
    refused(tmp_path / "used")
    assert (tmp_path / "used" / "notes.txt").exists()
    settings = killed_run(tmp_path / "run", 2)
    before = contents(tmp_path / "run")
    refused(tmp_path / "run")
    assert contents(tmp_path / "run") == before
    toy_run(settings)


def test_a_run_in_the_current_folder_works_too(
    tmp_path: Path, straight: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert torch.equal(toy_run(config(".", resume=False)), straight)
    assert (tmp_path / "here" / "result.json").exists()


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    message = refusal(config(tmp_path / "run"))
    assert f"run_dir {tmp_path / 'run'} is a file; give another run_dir" in message
    assert f"run_dir {tmp_path / 'run'}" in refusal(config(tmp_path / "run" / "below"))


def test_a_checkpoint_without_its_settings_is_refused(tmp_path: Path) -> None:
    settings = killed_run(tmp_path / "run", 2)
    (tmp_path / "run" / "config.json").unlink()
    assert "has a checkpoint but no config.json" in refusal(settings)


# Two processes, disks that refuse ---------------------------------------------------------------


def test_a_folder_in_use_is_refused_after_the_wait_naming_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = killed_run(tmp_path / "run", 2)
    before = contents(tmp_path / "run")
    ready, done = os.pipe(), os.pipe()
    owner = os.fork()
    if not owner:  # the child holds the folder until the pipe is closed
        os.close(done[1])
        with opened(settings):
            os.write(ready[1], b"x")
            os.read(done[0], 1)
        os._exit(0)
    try:
        os.read(ready[0], 1)
        monkeypatch.setattr(opening, "locked", functools.partial(opening.locked, wait=0.3))
        link = tmp_path / "link"
        link.symlink_to(tmp_path / "run")
        for name in (tmp_path / "run", link, tmp_path / "x" / ".." / "run"):
            message = refusal(config(name))
            assert f"run folder {tmp_path / 'run'} is in use by process {owner} on " in message
            assert "waiting for it" in capsys.readouterr().out
            assert "in use" in refusal(config(name, resume=False))
        assert contents(tmp_path / "run") == before
    finally:
        for end in (*done, *ready):
            os.close(end)
        os.waitpid(owner, 0)
    toy_run(settings)


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


def assert_untouched_after_full_disk(path: Path, message: str, before: str) -> None:
    assert str(path / "checkpoint.next.pt") in message
    assert "MB needed" in message
    assert "run the same command again" in message
    assert digest(path / "checkpoint.pt") == before
    assert not any("next" in file.name or "part" in file.name for file in path.iterdir())


def test_a_full_disk_keeps_the_checkpoint_and_the_same_command_goes_on(
    tmp_path: Path, straight: Tensor
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
            toy_run(config(path), fill)
        assert_untouched_after_full_disk(path, str(caught.value), newest[0])
        assert "0.1 MB needed" in str(caught.value)
        with pytest.raises(SettingsError, match="disk is full"):
            toy_run(config(path))  # again without room: refused again, nothing lost
        assert digest(path / "checkpoint.pt") == newest[0]
        filler.unlink()
        assert torch.equal(toy_run(config(path)), straight)


def test_a_size_limit_keeps_the_checkpoint_and_the_same_command_goes_on(
    tmp_path: Path, straight: Tensor
) -> None:
    settings = killed_run(tmp_path / "run", 2)
    before = digest(tmp_path / "run" / "checkpoint.pt")
    with no_file_above(50_000), pytest.raises(SettingsError, match="size limit") as caught:
        toy_run(settings)
    assert_untouched_after_full_disk(tmp_path / "run", str(caught.value), before)
    assert torch.equal(toy_run(settings), straight)


def test_a_read_only_disk_is_named_and_a_finished_run_on_it_is_read_back(
    tmp_path: Path, straight: Tensor
) -> None:
    with mounted(tmp_path / "disk") as remount:
        disk = tmp_path / "disk"
        toy_run(config(disk / "finished"))
        killed_run(disk / "killed", 2)
        remount("ro")
        try:
            assert torch.equal(toy_run(config(disk / "finished")), straight)
            with pytest.raises(SettingsError, match="read-only; give another run_dir"):
                toy_run(config(disk / "killed"))
            assert f"run_dir {disk / 'new'} cannot be used" in refusal(config(disk / "new"))
            assert "cannot be used" in refusal(config(disk / "finished", resume=False))
        finally:
            remount("rw")
        assert torch.equal(toy_run(config(disk / "killed")), straight)


def test_an_injected_read_only_error_is_named_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", fail)
    message = refusal(config(tmp_path / "run"))
    assert f"run_dir {tmp_path / 'run'} cannot be used (Read-only file system)" in message


# Reading what another step made -----------------------------------------------------------------


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is not a run folder"):
        read_history(tmp_path)
    with pytest.raises(SettingsError, match="is not the folder of a search"):
        read_alphas(tmp_path)


@pytest.mark.parametrize("content", [b'{"epoch": 1}\n{"epo', b"\xff\xfe", b"[1]\n"])
def test_a_damaged_history_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_bytes(content)
    with pytest.raises(SettingsError, match=r"history\.jsonl"):
        read_history(tmp_path)


def test_damaged_alphas_are_named(tmp_path: Path) -> None:
    file = tmp_path / "alphas.npz"
    np.savez(file, normal=np.zeros((2, 14, 8), np.float32))
    whole = file.read_bytes()
    for content in (whole[:500], b"", bytes(100)):
        file.write_bytes(content)
        with pytest.raises(SettingsError, match=r"alphas\.npz"):
            read_alphas(tmp_path)


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"[1]", b"\xff"])
def test_damaged_json_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(SettingsError, match=r"result\.json"):
        read_json(tmp_path / "result.json")
