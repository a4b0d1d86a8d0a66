"""Sweeps: the protocol, the statistics by hand, and real workers, of which some are killed."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Timer
from types import SimpleNamespace

import cloudpickle
import psutil
import pytest
from chapter_tools import write_notebook
from distributed import Client, Nanny, Scheduler, Security, SpecCluster
from fuzz_tools import Patch, Printed, refusal_of

from darts_lib.derivation import random_genotype
from darts_lib.engine.files import locked
from darts_lib.engine.folder import read_history, read_json, write_json
from darts_lib.engine.opening import opened
from darts_lib.retrain import RetrainConfig
from darts_lib.search import SearchConfig
from darts_lib.tools import sweep_runs, sweep_workers
from darts_lib.tools.sweep import main, parser, read_config, select, spread, summary, sweep, tables
from darts_lib.tools.sweep_plan import Cell, Plan, SweepConfig, chapter_settings
from darts_lib.tools.sweep_runs import ChapterRun, Outcome, lock_file, run_to_end
from darts_lib.tools.sweep_workers import Workers, connected


def plan_in(root: Path, **given: object) -> Plan:
    return Plan(SweepConfig.create(scale="laptop", **given), root)


def test_mean_deviation_and_standard_error_by_hand() -> None:
    """2, 4, 4, 6: mean 4, squares 4 + 0 + 0 + 4 over 3, and half of the root over 4 figures."""
    deviation, error = pytest.approx((8 / 3) ** 0.5), pytest.approx((2 / 3) ** 0.5)
    by_hand = {"count": 4, "mean": 4.0, "deviation": deviation, "standard_error": error}
    alone = {"count": 1, "mean": 0.25, "deviation": None, "standard_error": None}
    assert [spread(x) for x in ([2.0, 4.0, 4.0, 6.0], [0.25], [])] == [by_hand, alone, None]


def outcome(name: str, accuracy: float | None) -> Outcome:
    if accuracy is None:
        return Outcome(name, f"/sweep/{name}.ipynb", None, "ValueError: no luck")
    result = {"test_accuracy": accuracy, "test_images": 100, "genotype": {}, "hours": 0.0}
    result |= {"parameters": 12345, "multiply_adds": 6.5e5, "machine": {"device": "CPU"}}
    return Outcome(name, f"/sweep/{name}.ipynb", {**result, "tested_on": "a stand-in"})


def judged(kind: str, *accuracies: float | None) -> dict[Cell, Outcome]:
    cells = [Cell(kind, seed) for seed in range(len(accuracies))]
    pairs = zip(cells, accuracies, strict=True)
    return {cell: outcome(f"short/{cell.name}", accuracy) for cell, accuracy in pairs}


def leave(run: ChapterRun, accuracy: float) -> None:
    """Leave a run folder as a finished retraining does."""
    run.folder.mkdir(parents=True)
    write_json(run.folder / "result.json", outcome(run.name, accuracy).result)


def test_the_best_is_of_its_kind_of_equal_ones_the_first_and_never_a_failed_one() -> None:
    cells = judged("searched", 0.8, None, 0.9, 0.9) | judged("random", 0.95, 0.7)
    assert select(cells, "searched") == Cell("searched", 2)
    assert select(cells, "random") == Cell("random", 0)
    assert select(judged("searched", None, None), "searched") is None


def test_the_figures_and_the_table() -> None:
    cells = judged("searched", 0.90, None, 0.94) | judged("random", 0.80, 0.82, 0.87)
    finals = {
        Cell("searched", 2): [outcome("full/a", 0.96), outcome("full/b", 0.98)],
        Cell("random", 2): [outcome("full/c", 0.93), outcome("full/d", None)],
    }
    found = summary(cells, finals)
    assert json.loads(json.dumps(found)) == found
    errors = {"mean": 0.08, "deviation": 0.02 * 2**0.5, "standard_error": 0.02, "count": 2}
    assert found["validation_error"]["searched"] == pytest.approx(errors)
    assert [run["name"] for run in found["failed"]] == ["short/searched-1", "full/d"]
    assert found["machines"] == [{"device": "CPU"}]
    rows = tables(found).splitlines()
    for row in (
        "| best searched (searched-2) | 6.0 % | 1 | 3.0 ± 1.0 % | 1.4 % | 2 |",
        "| best random (random-2) | 13.0 % | 1 | 7.0 % | none of one | 1 |",
        "| mean of searched | 8.0 ± 2.0 % | 2 |  |  |  |",
        "| mean of random | 17.0 ± 2.1 % | 3 |  |  |  |",
        "| searched-1 | 1 | failed |  |  |",
        "| full/d | ValueError: no luck | /sweep/full/d.ipynb |",
    ):
        assert row in rows


def test_searched_and_random_cells_get_the_same_retrainings(tmp_path: Path) -> None:
    plan = plan_in(tmp_path, seed=7, finals=3, retrain={"channels": 4})
    names = [f"{kind}-{seed}" for kind in ("searched", "random") for seed in (7, 8, 9)]
    assert [cell.name for cell in plan.cells()] == names
    searched, drawn = Cell("searched", 8), Cell("random", 8)
    (search, *retrainings), others = plan.chain(searched), plan.chain(drawn) + plan.full(drawn)
    assert (search.parameters["seed"], len(others)) == (8, 1 + 3)
    for run, other in zip(retrainings + plan.full(searched), others, strict=True):
        assert run.chapter == other.chapter
        assert run.folder != other.folder
        apart = {"genotype": str(search.folder), "run_dir": str(run.folder)}
        assert run.parameters == {**other.parameters, **apart}
        assert other.parameters["genotype"] == str(random_genotype(8))


def test_only_the_full_retrainings_are_tested_on_the_test_images(tmp_path: Path) -> None:
    plan = plan_in(tmp_path, finals=2)
    for cell in plan.cells():
        assert plan.chain(cell)[-1].parameters["holdout"] == 0.5
        assert not any("holdout" in run.parameters for run in plan.full(cell))
    assert [run.parameters["seed"] for run in plan.full(Cell("random", 1))] == [0, 1]
    search, short = plan.chain(Cell("searched", 0))
    assert all(run.chapter.is_file() for run in (search, short))
    assert SearchConfig.create(**search.parameters).epochs == 4
    drawn = RetrainConfig.create(**plan.chain(Cell("random", 0))[-1].parameters)
    assert (drawn.epochs, drawn.cell) == (plan.config.short_epochs, random_genotype(0))


def test_settings_go_to_the_chapters_that_know_them() -> None:
    pairs = [("batch_size", "32"), ("retrain.channels", "6"), ("order", "1"), ("amp", "off")]
    assert chapter_settings(pairs, "laptop") == {
        "search": {"batch_size": 32, "order": 1, "amp": "off"},
        "retrain": {"batch_size": 32, "channels": 6, "amp": "off"},
    }
    elsewhere = chapter_settings([("device", "cuda:3"), ("data_root", "d")], "paper")["search"]
    assert elsewhere == {"device": "cuda:3", "data_root": str(Path.cwd() / "d")}


@pytest.mark.parametrize(("name", "value", "problem"), [
    ("chanels", "4", "-p: unknown setting 'chanels'; did you mean 'channels'?"),
    ("retrain.order", "1", "-p: unknown setting 'order'; known: "),
    ("channels", "many", "channels='many': must be a whole number"),
    ("epoch", "3", "-p epoch: the plan of a sweep gives epochs to each run"),
    ("search.genotype", "random", "-p genotype: the plan of a sweep gives genotype to each"),
    ("holdout", "0.1", "-p holdout: the plan of a sweep gives holdout to each run"),
    ("chapter.channels", "3", "write search.channels or retrain.channels"),
])  # fmt: skip
def test_a_wrong_setting_is_refused_before_any_run(name: str, value: str, problem: str) -> None:
    refusal_of(lambda: chapter_settings([(name, value)], "laptop"), problem)


def test_the_command_line() -> None:
    options = "--scale laptop --finals 1 --holdout 0.25 -p device cpu"
    config = read_config(parser().parse_args(options.split()))
    assert (config.searches, config.finals, config.holdout, config.on_cpu) == (3, 1, 0.25, True)
    half = config.model_copy(update=chapter_settings([("search.device", "cpu")], "laptop"))
    assert not half.on_cpu
    paper = SweepConfig.create(scale="paper")
    assert (paper.search_epochs, paper.short_epochs, paper.full_epochs) == (50, 100, 600)
    at_least = "searches=0: must be at least 1"
    refusal_of(lambda: SweepConfig.create(scale="laptop", searches=0), at_least)


def test_a_folder_holds_one_sweep_and_may_grow(tmp_path: Path) -> None:
    plan_in(tmp_path).claim()
    plan_in(tmp_path, searches=5, finals=4).claim()
    stored = read_json(tmp_path / "sweep.json")
    assert stored["runs"][-3:] == ["short/random-0", "short/random-1", "short/random-2"]
    assert "search/searched-4" in stored["runs"]
    other = ["short_epochs 6 there, 9 here", "another --folder"]
    refusal_of(plan_in(tmp_path, short_epochs=9).claim, *other)


def test_a_silent_scheduler_is_named() -> None:
    silent = "no Dask scheduler answers at tcp://127.0.0.1:9 "
    refusal_of(lambda: connected("tcp://127.0.0.1:9", wait=0.5), silent)
    with socket.create_server(("127.0.0.1", 0)) as mute:  # as one that waits for HTTP
        address = f"tcp://127.0.0.1:{mute.getsockname()[1]}"
        refusal_of(lambda: connected(address, wait=0.5), f"no Dask scheduler answers at {address}")


@pytest.mark.parametrize(("options", "words"), [
    ("--workers -1", "--workers -1: must be at least 0"),
    ("--wait nan", "--wait nan: must be at least 0"),
    ("--tls a b c", "--tls is for --scheduler tls://"),
    ("--scheduler h:8786", "--scheduler 'h:8786': must be tcp://HOST:PORT"),
    ("--scheduler tls://h:1", "give --tls CA CERT KEY for tls://"),
    ("--scheduler tls://h:1 --tls a b c", "--tls a b c cannot be used"),
    ("--folder file", "--folder='file': file is a file, not a folder"),
    ("--folder file/sub", "--folder='file/sub': file is a file, not a folder"),
    ("--folder " + "long" * 99, "a name in it has 396 bytes"),
    ("--folder other", "sweep.json was not written by a sweep"),
])  # fmt: skip
def test_a_sweep_that_cannot_be_is_refused_before_workers_are_started(
    options: str, words: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(sweep_workers, "local_cluster", lambda *_: pytest.fail("started"))
    (tmp_path / "file").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "sweep.json").write_text('{"settings": []}')
    with contextlib.chdir(tmp_path):
        refusal_of(lambda: main(["--scale", "laptop", *options.split()]), words)


def test_without_dask_or_the_chapters_a_sweep_ends_in_one_line(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    command = ["--scale", "laptop", "--folder", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr("darts_lib.engine.command_line.project_root", lambda: tmp_path)
        refusal_of(lambda: main(command), "03_search.ipynb is missing", "in a clone")
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.delitem(sys.modules, "darts_lib.tools.sweep_workers")
    monkeypatch.delattr("darts_lib.tools.sweep_workers")
    refusal_of(lambda: main(command), "needs distributed: pip install 'darts-lib[sweep]'")


def test_another_python_or_distributed_is_named() -> None:
    here = sweep_workers.distributed.__version__
    python = ".".join(map(str, sys.version_info))
    for version, dask in (("2.7.18.final.0", here), (python, "2020.1")):
        told = {"packages": {"python": version, "distributed": dask}}
        check = partial(sweep_workers._check_versions, "tcp://h:1", {"worker x": told})
        refusal_of(check, "worker x of tcp://h:1 has Python ", dask, "install the same on all")
    sweep_workers._check_versions("", {"x": {"packages": {"python": python, "distributed": here}}})


@pytest.mark.parametrize(("offers", "needs", "words"), [
    ([], {}, "no worker at tcp://h:1: start one with `dask worker tcp://h:1 --nthreads 1`"),
    ([{}], {"GPU": 1.0}, "1 worker, none with GPU=1: start it with --resources GPU=1, or give -p"),
    ([{"GPU": 0.5}, {"CPU": 4}], {"GPU": 1.0}, "2 workers, none with GPU=1"),
    (None, {}, "the scheduler at tcp://h:1 does not answer"),
    ([{"GPU": 2}], {"GPU": 1.0}, ""),
    ([{}], {}, ""),
])  # fmt: skip
def test_what_workers_lack_is_told_and_not_waited_for_without_end(
    offers: list[dict[str, float]] | None,
    needs: dict[str, float],
    words: str,
    capsys: Printed,
    monkeypatch: Patch,
) -> None:
    def sync(identity: object, callback_timeout: float) -> object:
        if offers is None:
            raise TimeoutError
        return {"workers": {i: {"resources": offer} for i, offer in enumerate(offers)}}

    scheduler = SimpleNamespace(address="tcp://h:1", identity=None)
    client = SimpleNamespace(status="running", scheduler=scheduler, sync=sync)
    monkeypatch.setattr(sweep_workers, "LOOK", 0.02)
    monkeypatch.setattr(sweep_workers, "AGAIN", 0.05)
    later = SimpleQueue()  # of what is to be called when the run ends
    run = SimpleNamespace(add_done_callback=later.put)
    ended = Workers(client, needs, wait=0.3)._ended([run], ())
    if words:
        refusal_of(lambda: next(ended), words, "the same command then goes on")
        assert 2 <= capsys.readouterr().out.count(f"{words}") <= 8
    else:
        Timer(0.3, lambda: later.get()(run)).start()
        assert list(ended) == [run]
        assert sweep_workers.IDLE in capsys.readouterr().out


def test_the_lock_is_that_of_the_run_folder(tmp_path: Path) -> None:
    lock = locked(lock_file(tmp_path / "run"), "it", wait=0)
    with opened(RetrainConfig.create(scale="laptop", run_dir=str(tmp_path / "run"))):
        refusal_of(lock.__enter__, "is in use by process")


def test_a_run_is_read_back_or_failed(tmp_path: Path, capsys: Printed) -> None:
    def late(run: ChapterRun) -> None:
        leave(run, 0.5)
        raise ValueError("a figure")

    run = ChapterRun(tmp_path / "chapter.ipynb", tmp_path / "short" / "random-0", {})
    with pytest.raises(sweep_runs.RunFailedError, match=r"left no result\.json"):
        run_to_end(run, lambda run: None)
    for execute in (late, lambda run: pytest.fail("executed again")):  # nobody catches it
        assert run_to_end(run, execute)["test_accuracy"] == 0.5
    assert "failed later: ValueError: a figure" in capsys.readouterr().out


class InThisProcess(Workers):
    """Does the runs at once, in turn."""

    def run(self, chains: Iterable[Sequence[ChapterRun]]) -> dict[str, Outcome]:
        runs = [run for chain in chains for run in chain]
        return {r.name: Outcome(r.name, str(r.executed), run_to_end(r, self.execute)) for r in runs}


def test_the_best_of_each_kind_is_retrained_and_all_is_stored(tmp_path: Path) -> None:
    def standing_in(run: ChapterRun) -> None:
        leave(run, 0.9 if run.name == "short/searched-1" else 0.7)

    found = sweep(plan_in(tmp_path), InThisProcess(None, execute=standing_in))
    for kind, cell in (("searched", "searched-1"), ("random", "random-0")):
        names = [f"full/{cell}-seed-{seed}" for seed in (0, 1)]
        assert list(found["best"][kind]["test_accuracies"]) == names
    assert read_json(tmp_path / "result.json") == found


cloudpickle.register_pickle_by_value(sys.modules[__name__])
"""So that no worker has to import this file, and with it half the library."""

MARK = f"test-sweep-{uuid.uuid4()}"
"""In the environment of every process that these tests start, so that none is overlooked."""


def is_ours(process: psutil.Process) -> bool:
    """Say whether a process carries the mark: a worker or kernel, whoever its parent is."""
    with contextlib.suppress(psutil.Error):
        if process.environ().get("DARTS_LIB_SWEEP_TEST") == MARK and process.pid != os.getpid():
            return process.status() != "zombie" and "resource_tracker" not in str(process.cmdline())
    return False


def eventually(true: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what} did not happen in {seconds} s"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Return a client of a scheduler with two worker processes; afterwards none is left."""
    os.environ["DARTS_LIB_SWEEP_TEST"] = MARK
    try:
        with sweep_workers.local_cluster(2, 1, "127.0.0.1:0") as cluster, Client(cluster) as client:
            yield client
    finally:
        del os.environ["DARTS_LIB_SWEEP_TEST"]
    eventually(lambda: not any(map(is_ours, psutil.process_iter())), "the end of all workers", 20)


def open_sockets() -> list[str]:
    """Return where this process and those of the sweep listen: beyond loopback, all machines."""
    ours = [psutil.Process(), *filter(is_ours, psutil.process_iter())]
    listening = [s for p in ours for s in p.net_connections("inet") if s.status == "LISTEN"]
    assert len(listening) > 5, "two workers and a scheduler are there"
    return [s.laddr.ip for s in listening if s.laddr.ip not in ("127.0.0.1", "::1")]


@pytest.mark.deep
def test_nothing_of_a_sweep_listens_beyond_this_machine(client: Client) -> None:
    assert open_sockets() == []


def certificates(folder: Path) -> tuple[str, str, str]:
    """Make an authority and a certificate that it has signed, with their keys."""
    folder.mkdir()
    made = "req -newkey rsa:2048 -nodes -keyout"
    for line in (
        f"{made} ca.key -x509 -subj /CN=authority -out ca.pem",
        f"{made} key.pem -subj /CN=worker -out cert.csr",
        "x509 -req -in cert.csr -CA ca.pem -CAkey ca.key -set_serial 1 -out cert.pem",
    ):
        command = ["openssl", *line.split()]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return tuple(str(folder / name) for name in ("ca.pem", "cert.pem", "key.pem"))


@pytest.mark.deep
@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificates")
def test_a_cluster_is_spoken_to_over_tls(tmp_path: Path) -> None:
    files, others = certificates(tmp_path / "a"), certificates(tmp_path / "b")
    given = {"tls_ca_file": files[0]}
    for end in ("scheduler", "worker"):
        given |= {f"tls_{end}_cert": files[1], f"tls_{end}_key": files[2]}
    options = {"host": "127.0.0.1", "protocol": "tls", "security": Security(**given)}
    scheduler = {"cls": Scheduler, "options": {**options, "dashboard_address": "127.0.0.1:0"}}
    worker = {"cls": Nanny, "options": {**options, "nthreads": 1}}
    with SpecCluster({0: worker}, scheduler, security=sweep_workers.encrypted(files)) as cluster:
        address = cluster.scheduler_address
        assert address.startswith("tls://")
        with connected(address, files) as client:
            run = ChapterRun(tmp_path, tmp_path / "full" / "random-0", {})
            ended = Workers(client, execute=partial(leave, accuracy=0.5)).run([[run]])
            assert ended[run.name].accuracy == 0.5
        refusal_of(lambda: connected(address, others, wait=3), "no Dask scheduler answers", "TLS")


def standing_in(run: ChapterRun) -> None:
    """Stand in for a chapter: searched-1 is never found, random-0 fails once, others differ."""
    with open(f"{run.folder}.tries", "a+") as file:
        file.write(".")
        count = file.tell()
    if run.name == "search/searched-1" or (run.name == "short/random-0" and count == 1):
        raise ValueError(f"try {count} of {run.name}")
    if run.folder.parent.name == "short" and "searched" in run.name:
        search = Path(run.parameters["genotype"])
        assert (search / "result.json").exists(), "a cell is retrained after it was found"
    leave(run, {"searched-2": 0.9, "random-0": 0.8}.get(run.folder.name, 0.7))


def tries(root: Path) -> dict[str, int]:
    return {f"{f.parent.name}/{f.stem}": f.stat().st_size for f in sorted(root.glob("*/*.tries"))}


@pytest.mark.deep
def test_no_failure_sinks_a_sweep(client: Client, tmp_path: Path, capsys: Printed) -> None:
    plan = plan_in(tmp_path / "sweep")
    workers = Workers(client, retries=1, execute=standing_in)
    found = sweep(plan, workers)
    executed = str(plan.root / "search" / "searched-1.ipynb")
    failure = "ValueError: try 2 of search/searched-1"
    assert found["failed"] == [asdict(Outcome("search/searched-1", executed, None, failure))]
    assert found["validation_error"]["searched"]["count"] == 2
    assert found["validation_error"]["random"]["mean"] == pytest.approx((0.2 + 0.3 + 0.3) / 3)
    best = {kind: figures["name"] for kind, figures in found["best"].items()}
    assert best == {"searched": "searched-2", "random": "random-0"}
    counts, said = tries(plan.root), capsys.readouterr().out
    for name, count in counts.items():
        assert said.count(f"{name}: started, its epochs are in {plan.root / name}") == count
        assert count == 1 + (name in ("search/searched-1", "short/random-0"))
    assert "short/searched-1" not in counts, "there is no such cell to retrain"
    assert "| searched-1 | 1 | failed |" in said
    assert read_json(plan.root / "result.json") == found

    grown = replace(plan, config=plan.config.model_copy(update={"finals": 3}))
    sweep(grown, replace(workers, retries=0))
    assert {name: n for name, n in tries(plan.root).items() if counts.get(name) != n} == {
        "full/random-0-seed-2": 1,
        "full/searched-2-seed-2": 1,
        "search/searched-1": 3,  # what failed is tried again
    }
    started = capsys.readouterr().out.count(": started, ")
    assert started == 3, "what is finished is read back"


CHAPTER = [
    "import time\nfrom darts_lib.teaching.notebook import read_parameters\n"
    "from darts_lib.retrain import RetrainConfig, retrain",
    'epochs: int = 0  # 0: the scale\'s own\nscale: str = "auto"  # the defaults\n'
    'genotype: str = ""  # a cell\nrun_dir: str = ""  # a folder',
    "config = read_parameters(globals(), RetrainConfig)",
    "result = retrain(config, on_epoch=lambda row: time.sleep(0.4))",
]


@pytest.mark.deep
@pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks and signals")
def test_a_chapter_whose_worker_is_killed_goes_on(client: Client, tmp_path: Path) -> None:
    own = {"channels": 2, "layers": 1, "max_steps": 1, "batch_size": 8, "auxiliary": False}
    plan = plan_in(tmp_path, short_epochs=14, retrain=own)
    write_notebook(tmp_path / "chapter.ipynb", *CHAPTER)
    run = replace(plan.chain(Cell("random", 0))[0], chapter=tmp_path / "chapter.ipynb")
    future = client.submit(run_to_end, run, sweep_runs.run_chapter)
    history = run.folder / "history.jsonl"
    eventually(lambda: history.exists() and len(read_history(run.folder)) >= 2, "epoch 2")
    kernel = psutil.Process(int(lock_file(run.folder).read_text().split()[1]))
    assert open_sockets() == [], "of the kernel too"
    kernel.parent().kill()
    assert future.result(timeout=90)["tested_on"] == "held-out training images"
    assert [row["epoch"] for row in read_history(run.folder)] == list(range(1, 15))
    assert "resuming at epoch" in run.executed.read_text(), "it began anew"
    assert not kernel.is_running(), "the killed worker's kernel lives on"
