"""Every valid configuration takes a step; every other is refused by name, in one line.

Fuzzed, by types and bounds of the configurations' own fields. What was found so stands below as
examples of their own.
"""

import json
import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import torch
from fuzz_tools import examples, one_line, refusal_of
from hypothesis import given
from hypothesis import strategies as st
from picture_tools import make
from pydantic.fields import FieldInfo
from torch import Tensor

from darts_lib.bilevel import ROUTES
from darts_lib.data.images import ImageSet
from darts_lib.data.text import Corpus
from darts_lib.derivation import random_genotype
from darts_lib.engine.command_line import read_config
from darts_lib.engine.refusals import SettingsError, is_unset, show
from darts_lib.engine.settings import DATASETS, RunConfig
from darts_lib.recurrent.genotype import random_genotype as random_recurrent_genotype
from darts_lib.recurrent.retrain import RecurrentRetrainConfig, RecurrentRetraining
from darts_lib.recurrent.search import RecurrentSearch, RecurrentSearchConfig
from darts_lib.retrain import RetrainConfig, Retraining
from darts_lib.search import Search, SearchConfig
from darts_lib.transfer import ImageNetRetrainConfig, ImageNetRetraining

Values = st.SearchStrategy[Any]

# Valid configurations ---------------------------------------------------------------------------

NOT_DRAWN = {"data_root", "run_dir", "device", "threads", "image_size", "workers", "holdout"}
NOT_DRAWN |= {"sync_batch_norm", "method", "supernet", "primitives", "edge_primitives"}
"""What depends on the machine or on the data that are read, or has tests of its own."""
SIZES = {
    "channels": st.sampled_from([2, 4, 6, 8]),
    "layers": st.integers(1, 4),
    "nodes": st.integers(1, 3),
    "batch_size": st.integers(2, 9),
    "width": st.integers(1, 8),
    "bptt": st.integers(2, 7),
    "accumulate": st.integers(1, 12),
    "valid_batch_size": st.integers(1, 9),
}
"""Always drawn: the paper's would take minutes, and parts of a batch or a text have an end."""
TOPS = {"gradient_clip": 1e9, "clip": 1e9, "madds_weight": 10.0, "auxiliary_weight": 10.0}
TOPS |= {"spread": 1e300, "drop_path": 0.999}
TOPS |= {f"dropout_{x}": 0.99 for x in ("words", "embedding", "cell_input", "hidden", "output")}
"""The largest values drawn, where it is neither 1 nor the field's own bound."""


def cells(draw: Callable[..., Any]) -> Values:
    return st.builds(lambda *given: str(draw(*given)), st.integers(0, 999), st.integers(1, 3))


TEXT = {"dataset": st.just("topics"), "learning_rate": st.floats(1e-9, 30)}
TEXT |= {"amp": st.sampled_from(["auto", "off"]), "max_images": st.just(0)}
MORE: dict[type[RunConfig], dict[str, Values]] = {
    SearchConfig: {"dataset": st.sampled_from(DATASETS)},
    RetrainConfig: {"genotype": cells(random_genotype)},
    ImageNetRetrainConfig: {
        "genotype": cells(random_genotype),
        "batch_size": st.integers(2, 5),
        "layers": st.integers(1, 3),
        "image_size": st.integers(64, 67),
        "workers": st.just(0),
        "max_images": st.just(6),
    },
    RecurrentSearchConfig: TEXT,
    RecurrentRetrainConfig: {**TEXT, "genotype": cells(random_recurrent_genotype)},
}
"""What the fields of a kind do not say; always drawn too."""
KINDS = list(MORE)
COSTLY = (SearchConfig, RetrainConfig)


def bounds_of(field: FieldInfo) -> dict[str, Any]:
    names = ("ge", "gt", "le", "lt")
    return {n: getattr(each, n) for each in field.metadata for n in names if hasattr(each, n)}


def values_of(name: str, field: FieldInfo) -> Values | None:
    """Return the values of a field, by its type and its bounds, or None for a text."""
    kind, bounds = field.annotation, bounds_of(field)
    if get_origin(kind) is Literal and len(get_args(kind)) > 1:
        unlikely = {"on"} if name in ("compile", "graph") else set()  # seconds, or no CUDA
        return st.sampled_from([value for value in get_args(kind) if value not in unlikely])
    if kind is int:
        most = min(bounds.get("le", 2**31 - 1), bounds.get("lt", 2**31) - 1)
        return st.integers(bounds["ge"], most)
    if kind is float:
        least, top = bounds.get("ge", 1e-9), TOPS.get(name, bounds.get("le", 1.0))
        return st.floats(least, top, exclude_max="lt" in bounds, allow_subnormal=False)
    if name == "route":
        return st.sampled_from(["", *ROUTES])
    return st.booleans() if kind is bool else None


def settings_of(kind: type[RunConfig]) -> Values:
    fields = kind.model_fields
    needed = {name: values for name, values in SIZES.items() if name in fields} | MORE[kind]
    left_out = NOT_DRAWN | set(needed)
    drawn = {n: values_of(n, field) for n, field in fields.items() if n not in left_out}
    optional = {name: values for name, values in drawn.items() if values is not None}
    return st.fixed_dictionaries(needed, optional=optional)


def checked(kind: type[RunConfig], given: Mapping[str, Any]) -> Any:
    """Return the configuration, after checking that it keeps each value and comes back as text."""
    config = kind.create(**given)
    for name, value in given.items():
        if name != "scale":
            found = getattr(config, name)
            assert (found, type(found)) == (value, type(value)), name
    stored = json.loads(json.dumps(config.settings_that_matter()))
    assert kind.create(**{**given, **stored}) == config
    texts = {name: str(value) for name, value in given.items()}  # as papermill may pass them
    assert kind.create(**texts) == config
    return config


TAKEN: list[bool] = []
"""Whether each step taken here had a gradient that float32 holds."""


def assert_taken(run: Any) -> None:
    """A step leaves sound tensors behind; a gradient that overflowed is told and moved none.

    Two pictures of one pixel may be the same in a channel. Normalising that multiplies gradients by
    up to 316, and several normalisations in a row leave float32.
    """
    tensors = {**dict(run.net.named_parameters()), **run.alphas}
    tensors |= {"hidden": run.train_hidden} if hasattr(run, "train_hidden") else {}
    if hasattr(run, "average"):
        tensors |= {f"average of {name}": x for name, x in run.average.named_parameters()}
    try:
        run.guard.check(1, run.config.learning_rate, "here")
    except FloatingPointError as error:
        one_line(error, "was no number", "learning rate", "new run_dir")
        tensors = {name: tensor.detach() for name, tensor in tensors.items()}
        TAKEN.append(False)
    else:
        TAKEN.append(True)
    for name, tensor in tensors.items():
        assert tensor.dtype == torch.float32, name
        assert tensor.isfinite().all(), name
        assert tensor.grad is None or tensor.grad.isfinite().all(), name


TEXT_OF_SQUARES = torch.arange(400).square() % 11
CORPUS = Corpus(TEXT_OF_SQUARES, *[TEXT_OF_SQUARES[:100]] * 2, tuple("abcdefghijk"))
Start = tuple[Any, list[tuple[Any, ...]]]


def pictures(draw: Callable[[Values], Any]) -> tuple[ImageSet, Callable[[int], tuple[Tensor, ...]]]:
    """Return pictures that tell a run their size, and what draws batches of others."""
    channels = draw(st.sampled_from([1, 3]))
    shape = (channels, draw(st.integers(1, 11)), draw(st.integers(1, 11)))
    classes = draw(st.integers(2, 12))
    names, figures = tuple(map(str, range(classes))), (0.5,) * channels
    images, labels = torch.zeros(9, *shape, dtype=torch.uint8), torch.zeros(9, dtype=torch.int64)
    data = ImageSet("own", images, labels, names, figures, figures, 1, 0)
    return data, lambda count: (torch.randn(count, *shape), torch.randint(classes, (count,)))


def segment(config: Any, length: int) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(len(CORPUS.words), (length + 1, config.batch_size))
    return tokens[:-1], tokens[1:]


def started(config: Any, draw: Callable[[Values], Any]) -> Start:
    """Return a run before its first step, and what its steps are given."""
    run: Any
    generator = torch.Generator().manual_seed(0)
    match config:
        case SearchConfig():
            data, batch = pictures(draw)
            size = config.batch_size
            return Search(config, data=(data, data)), [(batch(size), batch(size))]
        case ImageNetRetrainConfig():
            run = ImageNetRetraining(config)
            return run, [next(run.batches(generator))]
        case RetrainConfig():
            data, batch = pictures(draw)
            run = Retraining(config, data=data)
            run.drop_path.fill_(draw(st.floats(0, config.drop_path)))
            # An epoch's last batch may be of two pictures, or one larger than the rest.
            return run, [(batch(n),) for n in {2, config.batch_size, config.batch_size + 1}]
        case RecurrentSearchConfig():
            run, length = RecurrentSearch(config, data=CORPUS), draw(st.integers(1, 9))
            run.train_masks.draw()
            run.valid_masks.draw()
            return run, [(segment(config, length), segment(config, length))]
    run = RecurrentRetraining(config, data=CORPUS)
    run.averaging = draw(st.booleans())
    run.masks.draw(generator)
    return run, [next(run.batches(generator))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 12 training and 6 test pictures in 3 classes."""
    return make(tmp_path_factory.mktemp("pictures"))


@pytest.mark.parametrize("kind", [
    pytest.param(kind, marks=[pytest.mark.deep] if kind in COSTLY else []) for kind in KINDS
])  # fmt: skip
@given(data=st.data())
@examples(10)
def test_every_configuration_takes_a_step(
    kind: type[RunConfig], data: st.DataObject, folder: Path
) -> None:
    read = {"data_root": str(folder)} if kind is ImageNetRetrainConfig else {}
    config = checked(kind, {**data.draw(settings_of(kind)), **read})
    run, batches = started(config, data.draw)
    for number, parts in enumerate(batches):
        total = run.step(*parts)
        if kind in COSTLY:
            assert float(total[2]) == len(parts[0][0])
        assert number or total.isfinite().all()
    assert_taken(run)
    if kind is RetrainConfig:
        assert math.isfinite(config.rate(config.epochs - 1))
        with torch.no_grad():
            logits, auxiliary = run.net.eval()(batches[0][0][0][:1])
        if config.gradient_clip <= 10:  # three steps at rate 1 with any gradient run away
            assert logits.isfinite().all()
        assert auxiliary is None


def test_hardly_any_of_these_steps_overflowed() -> None:
    assert TAKEN.count(False) <= 1 + len(TAKEN) / 100


# Any values -------------------------------------------------------------------------------------


class Odd:
    """A value that cannot even be printed."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


JUNK: list[object] = [None, [], [3], {"a": 1}, {1, 2}, (1, 2), object(), Odd(), len, 1j, b"\xff"]
JUNK += [torch.zeros(2, 2), np.arange(3), [[[[[[[0]]]]]]] * 50, Path("."), True, False, 0.5, -0.5]
JUNK += ["abc", "False", "true", "1,5", "nan", "inf", "-inf", "1e999", "0x10", "--1", "1 2", "1.5"]
JUNK += ["1e3", 1.5, 2**31, 10**12, 10**30, 10**400, 10**5000, "9" * 5000, -(2**31), "Genotype("]
JUNK += [math.nan, math.inf, -math.inf, "\0", "a\0b", "\ud800", "x\ny", "a" * 100_000, "'", "~"]
JUNK += [
    "🦜",
    "\u2028",
    "auto ",
    "None",
    "~nobody-of-this-name/x",
    "Genotype(normal=[])",
    "DARTS_V3",
]
JUNK += ["~\0", "Genotype" * 9999, "cuda:9999999999999999999999", "cpu:-1", "cpu:1", "meta", "gpu"]
JUNK += ["Genotype(normal=[])"]
TRUTHS = {word: truth for truth, words in (
    (True, ("1", "1.0", "on", "t", "y", "yes", "true")),
    (False, ("0", "0.0", "off", "f", "n", "no", "false")),
) for word in words}  # fmt: skip


def near(bounds: Mapping[str, Any]) -> list[object]:
    """Return values on both sides of a field's bounds."""
    return [x for limit in bounds.values() for x in (limit - 1, limit - 1e-6, limit, 2 * limit + 1)]


def means(value: Any, found: Any, field: FieldInfo) -> bool:
    """Say whether what a field has become is what was given, and within the field's bounds."""
    bounds, kind = bounds_of(field), field.annotation
    if kind is bool:
        return TRUTHS.get(str(value).lower()) is found
    if kind in (int, float):
        inside = bounds.get("ge", found) <= found <= bounds.get("le", found)
        inside &= bounds.get("gt", -math.inf) < found < bounds.get("lt", math.inf)
        sound = type(found) is kind and math.isfinite(found) and not isinstance(value, bool)
        return inside and sound and float(value) == found
    return bool(found == value)


def judge(kind: type[RunConfig], name: str, value: object) -> None:
    """A setting is refused by name in one line, or it means what it says."""
    field = kind.model_fields.get(name)
    try:
        config = kind.create(**{name: value})
    except SettingsError as error:
        said = "" if "is for images" in str(error) else show(value)[:30]  # no value would do
        one_line(error, *([name, said] if field else [f"unknown setting {show(name)}"]))
    else:
        assert field, name
        unset = name in kind.FILLED_BY_SCALE and is_unset(value)
        assert unset or means(value, getattr(config, name), field), (name, value)


@pytest.mark.parametrize("kind", KINDS)
def test_any_setting_is_refused_in_one_line_or_means_what_it_says(kind: type[RunConfig]) -> None:
    for name, field in kind.model_fields.items():
        for value in (*JUNK, *near(bounds_of(field))):
            if not (name.endswith("primitives") and isinstance(value, Collection)):
                judge(kind, name, value)  # of a list each part is told


NAMES = st.sampled_from(["cls", "self", "model_config", "x" * 10**5]) | st.text(max_size=40)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data(), text=st.text(max_size=30))
@examples(60)
def test_any_name_and_text_too(kind: type[RunConfig], data: st.DataObject, text: str) -> None:
    judge(kind, data.draw(st.sampled_from(sorted(kind.model_fields)) | NAMES), text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(content=JSON, wrapped=st.booleans(), cut=st.integers(0, 40))
@examples(60)
def test_a_file_of_settings_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: object, wrapped: bool, cut: int
) -> None:
    file = tmp_path_factory.getbasetemp() / "settings.json"
    text = json.dumps({"settings": content} if wrapped else content)
    file.write_text(text[: len(text) - max(0, cut - 30)])
    try:
        read_config(file, SearchConfig)
    except SettingsError as error:
        one_line(error)
    else:  # hypothesis tries the library's own words too, so a setting may be among them
        assert isinstance(content, dict)
        assert set(content) <= set(SearchConfig.model_fields)


# What was found so ------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "given", "words"), [
    (SearchConfig, {"learning_rate": math.nan}, "learning_rate=nan: "),
    (SearchConfig, {"gradient_clip": math.inf}, "gradient_clip=inf: "),
    (SearchConfig, {"learning_rate": "nan"}, "learning_rate='nan': "),
    (RetrainConfig, {"drop_path": False}, "drop_path=False: a number is wanted"),
    (RetrainConfig, {"epochs": True}, "epochs=True: a number is wanted"),
    (SearchConfig, {"max_steps": 10**5000}, "max_steps=a huge number: "),
    (SearchConfig, {"cutout": 10**30}, "cutout=1000000"),
    (SearchConfig, {"threads": 10**6}, "threads=1000000: "),
    (SearchConfig, {"layers": 10**6}, "layers=1000000: "),
    (SearchConfig, {"epochs": torch.zeros(2, 2)}, "epochs=tensor([[0., 0.], [0., 0.]]): "),
    (SearchConfig, {"epochs": np.zeros(2)}, "epochs=array([0., 0.]): "),
    (SearchConfig, {"cls": 1}, "unknown setting 'cls'"),
    (SearchConfig, {"data_root": "~nobody-of-this-name/x"}, "no such user"),
    (SearchConfig, {"run_dir": "a\0b"}, "run_dir='a\\x00b': "),
    (RetrainConfig, {"genotype": "~\0"}, "unknown genotype '~\\x00'"),
    (RetrainConfig, {"genotype": "x" * 10**6}, "unknown genotype 'xxx"),
])  # fmt: skip
def test_what_was_found_stays_refused(
    kind: type[RunConfig], given: dict[str, object], words: str
) -> None:
    refusal_of(lambda: kind.create(**given), words)


@pytest.mark.parametrize("seed", [7, "7", 7.0])
@pytest.mark.parametrize("kind", [RetrainConfig, RecurrentRetrainConfig])
def test_a_random_cell_is_that_of_its_seed_in_every_spelling(
    kind: type[RetrainConfig | RecurrentRetrainConfig], seed: object
) -> None:
    draw = random_genotype if kind is RetrainConfig else random_recurrent_genotype
    assert kind.create(genotype="random", seed=seed).cell == draw(7)
    assert kind.create(genotype="random", seed=8).cell != draw(7)


def test_the_first_unknown_name_is_told_the_same_each_time() -> None:
    for first, last in (("zzz", "aaa"), ("aaa", "zzz")):
        given = {first: 1, last: 2}
        refusal_of(lambda given=given: SearchConfig.create(**given), f"unknown setting '{first}'")
