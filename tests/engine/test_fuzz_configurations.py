"""Every valid configuration takes a step; every invalid one is refused by name, in one line.

Fuzzed: more than a few faults were found so, and stand below as examples of their own.
"""

import json
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzz_tools import examples, one_line
from hypothesis import given
from hypothesis import strategies as st
from picture_tools import make
from torch import Tensor

from darts_lib.bilevel import ROUTES
from darts_lib.data.images import ImageSet
from darts_lib.data.text import Corpus
from darts_lib.derivation import random_genotype
from darts_lib.engine.command_line import read_config
from darts_lib.engine.refusals import SettingsError, show
from darts_lib.engine.settings import DATASETS, RunConfig
from darts_lib.recurrent.genotype import random_genotype as random_recurrent_genotype
from darts_lib.recurrent.retrain import RecurrentRetrainConfig, RecurrentRetraining
from darts_lib.recurrent.search import RecurrentSearch, RecurrentSearchConfig
from darts_lib.retrain import RetrainConfig, Retraining
from darts_lib.search import Search, SearchConfig
from darts_lib.transfer import ImageNetRetrainConfig, ImageNetRetraining
from darts_lib.variants import METHODS

KINDS = (SearchConfig, RetrainConfig, ImageNetRetrainConfig)
KINDS += (RecurrentSearchConfig, RecurrentRetrainConfig)

# Valid configurations ---------------------------------------------------------------------------


def fractions(top: float = 1.0, first: float = 0.0) -> st.SearchStrategy[float]:
    """Draw from `first` to below `top`."""
    return st.floats(first, top, exclude_max=True, allow_subnormal=False)


SWITCHES = st.sampled_from(["auto", "off"])
SHARED = {
    "scale": st.sampled_from(["auto", "laptop", "paper"]),
    "seed": st.integers(0, 2**31 - 1),
    "epochs": st.integers(1, 2**31 - 1),
    "max_steps": st.integers(0, 2**31 - 1),
    "compile": SWITCHES,  # on would compile for seconds
    "graph": SWITCHES,
    "resume": st.booleans(),
}
IMAGES = {"max_images": st.integers(0, 2**31 - 1), "amp": st.sampled_from(["auto", "on", "off"])}
ROUTE = {"order": st.sampled_from([1, 2]), "route": st.sampled_from(["", *ROUTES])}
RATES = {
    "learning_rate": st.floats(1e-9, 1),
    "momentum": fractions(),
    "weight_decay": st.floats(0, 1),
    "gradient_clip": st.floats(1e-9, 1e9),
}
ALPHAS = {"alpha_learning_rate": st.floats(0, 1), "alpha_weight_decay": st.floats(0, 1)}
GENOTYPES = st.builds(
    lambda seed, nodes: str(random_genotype(seed, nodes)), st.integers(0, 999), st.integers(1, 3)
)

SEARCH = {
    "channels": st.integers(2, 8),
    "layers": st.integers(1, 4),
    "nodes": st.integers(1, 3),
    "batch_size": st.integers(2, 9),
    "dataset": st.sampled_from(DATASETS),
}
SEARCH_MORE = {
    **SHARED,
    **IMAGES,
    **ROUTE,
    **RATES,
    **ALPHAS,
    "final_learning_rate": st.floats(0, 1),
    "cutout": st.integers(0, 2**31 - 1),
    "max_skip": st.integers(-1, 2**31 - 1),
    "recompute": st.booleans(),
    "madds_weight": st.floats(0, 10),
}
RETRAIN = {
    "genotype": GENOTYPES,
    "channels": st.integers(2, 8),
    "layers": st.integers(1, 4),
    "batch_size": st.integers(2, 9),
}
RETRAIN_MORE = {
    **SHARED,
    **IMAGES,
    **RATES,
    "schedule": st.sampled_from(["cosine", "exponential"]),
    "rate_decay": st.floats(1e-9, 1),
    "label_smoothing": fractions(),
    "auxiliary": st.booleans(),
    "auxiliary_weight": st.floats(0, 10),
    "drop_path": fractions(0.999),
    "accumulate": st.integers(1, 12),
}
IMAGENET = {
    "genotype": GENOTYPES,
    "channels": st.sampled_from([2, 4, 6]),
    "layers": st.integers(1, 3),
    "batch_size": st.integers(2, 5),
    "image_size": st.integers(64, 67),
    "workers": st.just(0),
}
TEXT = {"width": st.integers(1, 8), "bptt": st.integers(2, 7), "batch_size": st.integers(2, 6)}
TEXT_MORE = {
    **{name: values for name, values in SHARED.items() if name not in ("graph", "compile")},
    "learning_rate": st.floats(1e-9, 30),
    "weight_decay": st.floats(0, 1),
    "clip": st.floats(1e-9, 1e9),
    "tar": st.floats(0, 1),
    "ar": st.floats(0, 1),
    **{
        f"dropout_{what}": fractions(0.99)
        for what in ("words", "embedding", "cell_input", "hidden", "output")
    },
}


def settings_of(
    needed: Mapping[str, st.SearchStrategy[Any]], more: Mapping[str, st.SearchStrategy[Any]]
) -> st.SearchStrategy[dict[str, Any]]:
    optional = {name: values for name, values in more.items() if name not in needed}
    return st.fixed_dictionaries(dict(needed), optional=optional)


def checked(kind: type[RunConfig], given: Mapping[str, Any]) -> Any:
    """Return the configuration, after checking that it keeps each value and comes back as text."""
    config = kind.create(**given)
    for name, value in given.items():
        if name != "scale":
            found = getattr(config, name)
            assert found == value
            assert type(found) is type(value), name
    stored = json.loads(json.dumps(config.settings_that_matter()))
    assert kind.create(**{**given, **stored}) == config
    texts = {name: str(value) for name, value in given.items()}  # as papermill may pass them
    assert kind.create(**texts) == config
    return config


def assert_sound(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        assert tensor.dtype == torch.float32, name
        assert tensor.isfinite().all(), name
        assert tensor.grad is None or tensor.grad.isfinite().all(), name


TAKEN: list[bool] = []
"""Whether each step taken here had a gradient that float32 holds."""


def assert_taken(run: Any, tensors: Mapping[str, Tensor]) -> None:
    """A step leaves sound weights behind; a gradient that overflowed is told and moved none.

    Two pictures of one pixel may be the same in a channel. Normalising that multiplies gradients by
    up to 316, and several normalisations in a row leave float32.
    """
    try:
        run.guard.check(1, run.config.learning_rate, "here")
    except FloatingPointError as error:
        one_line(error, "was no number", "learning rate", "new run_dir")
        TAKEN.append(False)
        tensors = {name: tensor.detach() for name, tensor in tensors.items()}
    else:
        TAKEN.append(True)
    assert_sound(tensors)


SIZE = {
    "shape": st.tuples(st.sampled_from([1, 3]), st.integers(1, 11), st.integers(1, 11)),
    "classes": st.integers(2, 12),
}


def pictures(shape: tuple[int, ...], classes: int) -> ImageSet:
    """Return pictures that tell a run their size; its steps are given others."""
    names, figures = tuple(map(str, range(classes))), (0.5,) * shape[0]
    images = torch.zeros(9, *shape, dtype=torch.uint8)
    return ImageSet("own", images, torch.zeros(9, dtype=torch.int64), names, figures, figures, 1, 0)


def batch(count: int, shape: tuple[int, ...], classes: int) -> tuple[Tensor, Tensor]:
    images = torch.randn(count, *shape)
    return images, torch.randint(classes, (count,))


@pytest.mark.deep
@given(values=settings_of(SEARCH, SEARCH_MORE), **SIZE)
@examples(7)
def test_every_search_takes_a_step(
    values: dict[str, Any], shape: tuple[int, int, int], classes: int
) -> None:
    config = checked(SearchConfig, values)
    run = Search(config, data=(pictures(shape, classes),) * 2)
    total = run.step(*(batch(config.batch_size, shape, classes) for _ in range(2)))
    assert_taken(run, {**run.weights, **run.alphas})
    assert total.isfinite().all()
    assert float(total[2]) == config.batch_size


@pytest.mark.deep
@given(values=settings_of(RETRAIN, RETRAIN_MORE), dropped=fractions(0.999), **SIZE)
@examples(15)
def test_every_retraining_takes_a_step(
    values: dict[str, Any], shape: tuple[int, int, int], classes: int, dropped: float
) -> None:
    config = checked(RetrainConfig, values)
    run = Retraining(config, data=pictures(shape, classes))
    run.drop_path.fill_(min(dropped, config.drop_path))
    # An epoch's last batch may be of two pictures, or one larger than the rest.
    for count in {2, config.batch_size, config.batch_size + 1}:
        assert float(run.step(batch(count, shape, classes))[2]) == count
    assert_taken(run, dict(run.net.named_parameters()))
    assert math.isfinite(config.rate(config.epochs - 1))
    with torch.no_grad():
        logits, auxiliary = run.net.eval()(batch(1, shape, classes)[0])
    if config.gradient_clip <= 10:  # three steps at rate 1 with any gradient run away
        assert logits.isfinite().all()
    assert auxiliary is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 12 training and 6 test pictures in 3 classes."""
    return make(tmp_path_factory.mktemp("pictures"))


@given(values=settings_of(IMAGENET, {**RETRAIN_MORE, "amp": SWITCHES}))
@examples(4)
def test_every_retraining_on_large_pictures_takes_a_step(
    folder: Path, values: dict[str, Any]
) -> None:
    config = checked(ImageNetRetrainConfig, {**values, "data_root": str(folder), "max_images": 6})
    run = ImageNetRetraining(config)
    run.step(*next(run.batches(torch.Generator().manual_seed(0))))
    assert_taken(run, dict(run.net.named_parameters()))


TEXT_OF_SQUARES = torch.arange(400).square() % 11
CORPUS = Corpus(TEXT_OF_SQUARES, *[TEXT_OF_SQUARES[:100]] * 2, tuple("abcdefghijk"))


def segment(config: Any, length: int) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(len(CORPUS.words), (length + 1, config.batch_size))
    return tokens[:-1], tokens[1:]


@given(
    values=settings_of({**TEXT, "nodes": st.integers(1, 4)}, {**TEXT_MORE, **ROUTE, **ALPHAS}),
    length=st.integers(1, 9),
)
@examples(7)
def test_every_recurrent_search_takes_a_step(values: dict[str, Any], length: int) -> None:
    config = checked(RecurrentSearchConfig, {**values, "dataset": "topics"})
    run = RecurrentSearch(config, data=CORPUS)
    run.train_masks.draw()
    run.valid_masks.draw()
    total = run.step(segment(config, length), segment(config, length))
    assert_taken(run, {**run.weights, **run.alphas, "hidden": run.train_hidden})
    assert total.isfinite().all()


RECURRENT_GENOTYPES = st.builds(
    lambda seed, nodes: str(random_recurrent_genotype(seed, nodes)),
    st.integers(0, 999),
    st.integers(1, 4),
)
RECURRENT_MORE = {
    **TEXT_MORE,
    "valid_batch_size": st.integers(1, 9),
    "spread": st.floats(0, 1e300),
    "patience": st.integers(1, 2**31 - 1),
}


@given(
    values=settings_of({**TEXT, "genotype": RECURRENT_GENOTYPES}, RECURRENT_MORE),
    averaging=st.booleans(),
)
@examples(20)
def test_every_recurrent_retraining_takes_a_step(values: dict[str, Any], averaging: bool) -> None:
    config = checked(RecurrentRetrainConfig, {**values, "dataset": "topics"})
    run = RecurrentRetraining(config, data=CORPUS)
    run.averaging = averaging
    generator = torch.Generator().manual_seed(0)
    run.masks.draw(generator)
    total = run.step(*next(run.batches(generator)))
    averages = {f"average of {name}": value for name, value in run.average.named_parameters()}
    assert_taken(run, {**dict(run.net.named_parameters()), **averages})
    assert total.isfinite().all()


def test_hardly_any_of_these_steps_overflowed() -> None:
    assert TAKEN.count(False) <= 1 + len(TAKEN) / 100


# Invalid values ---------------------------------------------------------------------------------


class Odd:
    """A value that cannot even be printed."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


OBJECTS: list[object] = [None, [], [3], {"a": 1}, {1, 2}, (1, 2), object(), Odd(), len, 1j, b"\xff"]
OBJECTS += [torch.zeros(2, 2), np.arange(3), [[[[[[[0]]]]]]] * 50]
NO_NUMBERS = ["abc", "False", "true", "1,5", "nan", "inf", "-inf", "1e999", "0x10", "--1", "1 2"]
NO_INTEGERS = ["1.5", "1e3", 1.5, -0.5, 2**31, 10**12, 10**30, 10**5000, "9" * 5000, -(2**31)]
NOT_FINITE = [math.nan, math.inf, -math.inf, 10**400]
TEXTS = ["\0", "a\0b", "\ud800", "x\ny", "a" * 100_000, "'", "~", "🦜", "\u2028", "auto ", "None"]
TRUTHS = ("0", "1", "on", "off", "t", "f", "y", "n", "yes", "no", "true", "false")


def is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


ANY_TEXT = st.text(max_size=30)


def junk_for(kind: type[RunConfig], name: str) -> st.SearchStrategy[object]:
    """Draw values that the setting cannot have."""
    field = kind.model_fields[name]
    if field.annotation in (int, float):
        texts = st.sampled_from(NO_NUMBERS + TEXTS) | ANY_TEXT.filter(lambda x: not is_number(x))
        odd: list[object] = [True, False, *NOT_FINITE]
        odd += NO_INTEGERS if field.annotation is int else []
        limits: list[object] = []
        for limit in field.metadata:
            if (least := getattr(limit, "ge", None)) is not None:
                limits += [least - 1, least - 1e-6] if field.annotation is float else [least - 1]
            if (above := getattr(limit, "gt", None)) is not None:
                limits += [above, -1e-300, -1]
            if (below := getattr(limit, "lt", None)) is not None:
                limits += [below, 2 * below]
            if (most := getattr(limit, "le", None)) is not None:
                limits += [most + 1]
        return st.sampled_from([*OBJECTS, *odd, *limits]) | texts
    if field.annotation is bool:
        texts = ANY_TEXT.filter(lambda x: x.lower() not in TRUTHS)
        return st.sampled_from([*OBJECTS, 2, -1, 0.5, math.nan, 10**5000, *TEXTS]) | texts
    objects = st.sampled_from([*OBJECTS, Path("."), True, 0.5, math.nan, 10**5000])
    if name in ("data_root", "run_dir"):
        return objects | st.sampled_from(["\0", "a\0b", "\ud800", "~nobody-of-this-name/x"])
    if name == "genotype":
        cells = ["Genotype(", "Genotype(normal=[])", "~nobody/x", "~\0", "DARTS_V3"]
        cells += ["Genotype" * 9999]
        return (
            st.sampled_from([*OBJECTS, True, 0.5, 10**5000])
            | st.sampled_from([*TEXTS[:3], *TEXTS[4:], *cells])
            | ANY_TEXT.filter(bool)
        )
    if name == "device":
        devices = ["cuda:9999999999999999999999", "cpu:-1", "cpu:1", "meta", "cuda:0", "CPU", "gpu"]
        texts = ANY_TEXT.filter(lambda x: not re.match("auto|cpu", x))
        return objects | st.sampled_from([*TEXTS, *devices]) | texts
    if name in ("primitives", "edge_primitives"):
        return st.sampled_from([object(), Odd(), len, 1j, True, 0.5, *TEXTS[1:]])
    if name == "cutout":
        return objects | st.sampled_from([1, -1, "1"])
    known: dict[str, Collection[str]] = {"route": ("", *ROUTES), "method": METHODS}
    known |= {"dataset": (*DATASETS, "topics", "penn", "wikitext-2")}
    known |= {"supernet": ("fused", "plain")}
    allowed = known.get(name, ("auto", "on", "off", "laptop", "paper", "cosine", "exponential"))
    return objects | st.sampled_from(TEXTS) | ANY_TEXT.filter(lambda text: text not in allowed)


@st.composite
def junk(draw: st.DrawFn, kind: type[RunConfig]) -> tuple[str, object]:
    name = draw(st.sampled_from(sorted(kind.model_fields)))
    value = draw(junk_for(kind, name))
    unset = value is None or (isinstance(value, str | int | float) and value in ("", 0, "auto"))
    if name in kind.FILLED_BY_SCALE and unset and value is not False:
        value = [value]
    return name, value


def refusal(kind: type[RunConfig], /, **given: object) -> str:
    with pytest.raises(SettingsError) as caught:
        kind.create(**given)
    return one_line(caught.value)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@examples(120)
def test_an_invalid_value_is_refused_by_name(kind: type[RunConfig], data: st.DataObject) -> None:
    name, value = data.draw(junk(kind))
    message = refusal(kind, **{name: value})
    assert name in message
    assert show(value)[:30] in message, (show(value), message)


@pytest.mark.parametrize("kind", KINDS)
@given(name=st.text(max_size=40) | st.sampled_from(["cls", "self", "model_config", "x" * 10**5]))
@examples(30)
def test_an_unknown_name_is_refused_whatever_it_is(kind: type[RunConfig], name: str) -> None:
    if name not in kind.model_fields:
        message = refusal(kind, **{name: 1})
        assert f"unknown setting {show(name)}" in message


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


@pytest.mark.parametrize(
    ("kind", "given", "words"),
    [
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
    ],
)
def test_what_was_found_stays_refused(
    kind: type[RunConfig], given: dict[str, object], words: str
) -> None:
    assert words in refusal(kind, **given)


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
        assert f"unknown setting '{first}'" in refusal(SearchConfig, **{first: 1, last: 2})
