"""Run folders with a toy run: whatever happens, the same command ends in the same bits.

That a run which was stopped goes on, and which files it leaves, is tested of every kind of run in
test_kinds.py; how it ends in test_run.py.
"""

import contextlib
import functools
import json
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzz_tools import Patch, Said, refusal_of
from same_bits import bits, digest
from toy_run import (
    CELL,
    Killed,
    ToyConfig,
    end,
    held_elsewhere,
    kill_after,
    killed,
    toy,
    toy_config,
)

from darts_lib import __version__
from darts_lib.derivation import genotypes_of
from darts_lib.engine import opening
from darts_lib.engine.files import pack, unpack
from darts_lib.engine.folder import CHECKPOINTS, read_alphas, read_history, read_json
from darts_lib.engine.opening import default_folder, opened
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.settings import RunConfig
from darts_lib.search import SearchConfig

DERIVED = ("history.jsonl", "alphas.npz", "genotype.json")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of four epochs that was never stopped."""
    path = tmp_path_factory.mktemp("straight") / "run"
    toy(toy_config(path))
    return path


def refused(config: RunConfig, *words: str) -> str:
    return refusal_of(lambda: opened(config).__enter__(), *words)


def contents(path: Path) -> dict[str, tuple[str, int]]:
    return {file.name: (digest(file), file.stat().st_mtime_ns) for file in path.iterdir()}


def ends_as(config: ToyConfig, straight: Path) -> bool:
    """Go on with a run; say whether its end is that of the run which was never stopped."""
    return end(toy(config).path) == end(straight)


def test_a_finished_folder_holds_what_the_design_says(straight: Path) -> None:
    names = {"config.json", *CHECKPOINTS, "result.json", *DERIVED}
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


def test_what_the_checkpoint_gives_is_made_again(path: Path, straight: Path, said: Said) -> None:
    config = killed(path, 4)
    for name in DERIVED:
        (path / name).write_bytes(b"cut o")
    assert ends_as(config, straight)
    assert f"resuming at epoch 5 from {path}" in said()
    assert bits(read_history(path)) == bits(read_history(straight))
    for name in DERIVED[1:]:
        assert digest(path / name) == digest(straight / name)


@pytest.mark.parametrize("cut", range(7))
def test_a_kill_at_any_moment_of_a_save_loses_nothing(cut: int, path: Path, straight: Path) -> None:
    """A save renames six times: the new checkpoint thrice, then what is made from it."""
    config, names, rename = killed(path, 2), list[str](), os.replace

    def replace(source: Path, target: Path) -> None:
        if len(names) == cut:
            raise Killed
        names.append(Path(target).name)
        rename(source, target)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        toy(config, lambda epoch: epoch == 3 and patch.setattr(os, "replace", replace))
    saved = ["checkpoint.next.pt", "checkpoint.previous.pt", "checkpoint.pt"]
    assert names == [*saved, *DERIVED, "result.json"][:cut]
    (path / ".checkpoint.next.pt.darts_lib-99999.part").write_bytes(b"half")
    assert ends_as(config, straight)
    assert len(read_history(path)) == 4
    assert list(path.glob(".*.part")) == [], "swept"


@pytest.mark.parametrize(("count", "words", "left"), [
    (1, "it is now checkpoint.pt.damaged", [3, 4]),
    (2, "no good checkpoint is left", [1, 2, 3, 4]),
])  # fmt: skip
def test_a_damaged_checkpoint_gives_way_to_the_one_before_or_to_a_new_beginning(
    count: int, words: str, left: list[int], path: Path, straight: Path, said: Said
) -> None:
    """What damage is noticed is tested in test_files.py."""
    config, epochs = killed(path, 3), list[int]()
    for name in CHECKPOINTS[:count]:
        (path / name).write_bytes((path / name).read_bytes()[:1000])

    def note(epoch: int) -> None:
        epochs.append(epoch)
        for file in path.glob("checkpoint*.pt"):
            unpack(file)  # the damaged one has not taken the place of the good one

    toy(config, note)
    assert (epochs, end(path)) == (left, end(straight))
    printed = said()
    assert f"{path / 'checkpoint.pt'} (1000 bytes) cannot be read" in printed
    assert words in printed


def test_the_thread_count_of_the_beginning_is_restored(path: Path, said: Said) -> None:
    config = killed(path, 1)
    torch.set_num_threads(2)
    toy(config)
    assert torch.get_num_threads() == 1
    assert "using 1 threads, as the run began" in said()


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

    new, used = tmp_path / "new", tmp_path / "used"
    without_data(new, epochs=9)
    assert not new.exists()
    toy(toy_config(new))  # with other settings: nothing was kept of the first
    used.mkdir()
    (used / "notes.txt").touch()
    without_data(used)
    assert [file.name for file in used.iterdir()] == ["notes.txt"]
    killed(path, 2)
    before = contents(path)
    without_data(path)
    assert contents(path) == before


def test_a_run_in_the_current_folder_works_too(tmp_path: Path, straight: Path) -> None:
    with contextlib.chdir(tmp_path):
        assert ends_as(toy_config(".", resume=False), straight)
    assert (tmp_path / "result.json").exists()


def test_a_file_in_the_way_is_named(path: Path) -> None:
    path.write_text("mine")
    for place in (path, path / "below"):
        refusal_of(lambda place=place: toy_config(place), "run_dir=", f"{path} is a file, not")


@pytest.mark.parametrize("stored", ["[1]", "null", '"x"', "3"])
def test_settings_that_are_no_object_are_refused(stored: str, path: Path) -> None:
    config = killed(path, 1)
    (path / "config.json").write_text(f'{{"format": 1, "settings": {stored}}}')
    refused(config, f"{path / 'config.json'} was not written by a run")


@pytest.mark.parametrize("content", [
    {"format": 1}, {"history": 3}, {"state": []}, {"threads": "two"}, {"alphas": None},
])  # fmt: skip
def test_a_checkpoint_of_another_shape_gives_way(
    content: dict[str, Any], path: Path, straight: Path, said: Said
) -> None:
    config = killed(path, 3)
    good = unpack(path / "checkpoint.pt")
    odd = content if content == {"format": 1} else {**good, **content}
    (path / "checkpoint.pt").write_bytes(pack(odd))
    assert ends_as(config, straight)
    assert "checkpoint.pt is not a run's checkpoint: it has no" in said()


def test_a_result_that_lacks_a_figure_is_named(path: Path) -> None:
    toy(toy_config(path))
    (path / "result.json").write_text('{"library": "0"}')
    result = toy(toy_config(path))
    refusal_of(lambda: result.figures["loss"], f"{path / 'result.json'} lacks 'loss'; restore it")
    assert result.figures.get("loss") is None


def test_a_checkpoint_without_its_settings_is_refused(tmp_path: Path) -> None:
    for name in (*CHECKPOINTS, "result.json"):
        (tmp_path / name).touch()
        refused(toy_config(tmp_path), "holds a run but no config.json")
        (tmp_path / name).unlink()


def test_a_run_that_was_killed_before_its_first_checkpoint_has_nothing_to_lose(path: Path) -> None:
    path.mkdir()
    (path / "config.json").write_text('{"format": 1, "settings": {"kind": "toy", "seed": 5}}')
    toy(toy_config(path))
    assert read_json(path / "config.json")["settings"]["seed"] == 0


def test_a_folder_in_use_is_refused_after_the_wait_naming_its_owner(
    tmp_path: Path, path: Path, monkeypatch: Patch, said: Said
) -> None:
    config, link = killed(path, 2), tmp_path / "link"
    before = contents(path)
    link.symlink_to(path)
    with held_elsewhere(lambda: opened(config)) as owner:
        monkeypatch.setattr(opening, "locked", functools.partial(opening.locked, wait=0.3))
        for name in (path, link, tmp_path / "x" / ".." / "run"):
            words = f"run folder {path} is in use by process {owner.pid} on "
            refused(toy_config(name, resume=False), words)
            assert "waiting for it" in said()
        assert contents(path) == before
    toy(config)


@contextlib.contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """Let every write beyond `size` bytes fail with EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_without_room_the_checkpoint_stays_and_the_run_goes_on(path: Path, straight: Path) -> None:
    config = killed(path, 2)
    words = ("size limit", f"{path / 'checkpoint.next.pt'} ", "0.1 MB needed", "run the same comm")
    with contextlib.ExitStack() as stack:
        refusal_of(lambda: toy(config, lambda _: stack.enter_context(no_file_above(9999))), *words)
        refusal_of(lambda: toy(config), *words[:1])  # again without room
    assert len(unpack(path / "checkpoint.pt")["history"]) == 3
    assert not any("next" in file.name or "part" in file.name for file in path.iterdir())
    assert ends_as(config, straight)


def test_where_nothing_can_be_written_a_run_is_refused_or_read_back(path: Path, said: Said) -> None:
    with no_file_above(1):
        refusal_of(lambda: toy(toy_config(path), kill_after(1)), "was not written")
    assert not path.exists()
    toy(toy_config(path))
    with no_file_above(0):
        assert toy(toy_config(path)).genotype == CELL
    assert "finished already" in said()


@pytest.mark.parametrize(("name", "read", "contents"), [
    ("history.jsonl", read_history, [b'{"epoch": 1}\n{"epo', b"\xff\xff", b"[1]\n"]),
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
