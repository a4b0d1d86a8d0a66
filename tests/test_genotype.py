"""Genotypes as data: text and JSON both ways, nothing run, errors that name what is wrong."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darts_lib.derivation import random_genotype
from darts_lib.genotype import KNOWN_OPERATIONS, PUBLISHED, Genotype, GenotypeError

V2_TEXT = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), "
    "('sep_conv_3x3', 1), ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), "
    "('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), "
    "('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])"
)


def test_published_cell_as_text() -> None:
    assert str(PUBLISHED["DARTS_V2"]) == V2_TEXT
    assert Genotype.from_text(V2_TEXT) == PUBLISHED["DARTS_V2"]


def test_concat_may_be_a_range_and_white_space_is_free() -> None:
    text = V2_TEXT.replace("[2, 3, 4, 5]", "range(2,6)").replace(", (", ",\n      (")
    assert Genotype.from_text(f"  {text}\n") == PUBLISHED["DARTS_V2"]


def test_the_alias_is_v2_up_to_the_order_of_edges() -> None:
    def as_sets(genotype: Genotype, kind: str) -> list[set[tuple[str, int]]]:
        pairs = genotype.pairs(kind)
        return [set(pairs[i : i + 2]) for i in range(0, len(pairs), 2)]

    for kind in ("normal", "reduce"):
        assert as_sets(PUBLISHED["MMRAZOR_ALIAS"], kind) == as_sets(PUBLISHED["DARTS_V2"], kind)
    assert PUBLISHED["MMRAZOR_ALIAS"] != PUBLISHED["DARTS_V2"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_round_trips_of_published_cells(name: str) -> None:
    genotype = PUBLISHED[name]
    assert Genotype.from_text(str(genotype)) == genotype
    assert Genotype.from_dict(json.loads(json.dumps(genotype.to_dict()))) == genotype


@given(seed=st.integers(0, 10**6), nodes=st.integers(1, 7))
@settings(max_examples=50, deadline=None)
def test_round_trips_of_random_cells(seed: int, nodes: int) -> None:
    genotype = random_genotype(seed, nodes)
    assert Genotype.from_text(str(genotype)) == genotype
    assert Genotype.from_dict(json.loads(json.dumps(genotype.to_dict()))) == genotype


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch /tmp/hostile')",
        "Genotype(normal=__import__('os').system('touch /tmp/hostile'))",
        V2_TEXT.replace("[2, 3, 4, 5]", "range(2, 10**9)", 1),
        V2_TEXT.replace("[2, 3, 4, 5]", "range(2, 99)", 1),
        V2_TEXT[:-1],
        V2_TEXT.replace("normal=", "", 1),
        V2_TEXT.replace("normal_concat", "normal_concats"),
        V2_TEXT.replace("('dil_conv_3x3', 2)", "('dil_conv_3x3', 5)"),
        V2_TEXT.replace("('dil_conv_3x3', 2)", "('dil_conv_3x3', True)"),
        V2_TEXT.replace("('dil_conv_3x3', 2)", "('dil_conv_3x3', 2, 1)"),
        V2_TEXT.replace("('dil_conv_3x3', 2)", "('none', 2)"),
        V2_TEXT.replace(", ('dil_conv_3x3', 2)", ""),
        "Genotype(**{})",
        "(" * 5000,
        "",
        "\0",
    ],
)
def test_bad_texts_are_refused_and_nothing_runs(text: str, tmp_path: object) -> None:
    import os

    with pytest.raises(GenotypeError):
        Genotype.from_text(text)
    assert not os.path.exists("/tmp/hostile")


@given(st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_text_gives_a_cell_or_a_genotype_error(text: str) -> None:
    for candidate in (text, f"Genotype({text})", f"Genotype(normal=[{text}])"):
        with pytest.raises(GenotypeError):
            Genotype.from_text(candidate)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("('dil_conv_3x3', 2)", "('dil_conv_3', 2)", "node 5: unknown.*'dil_conv_3'.*dil_conv_3x3"),
        ("('dil_conv_3x3', 2)", "('none', 2)", "node 5.*'none'.*never part of a cell"),
        ("('dil_conv_3x3', 2)", "('dil_conv_3x3', 7)", "node 5: source 7.*use 0 to 4"),
        ("normal_concat=[2, 3, 4, 5]", "normal_concat=[2, 2]", "normal_concat=.*distinct nodes"),
        ("normal_concat=[2, 3, 4, 5]", "normal_concat=[2, 9]", "normal_concat=.*from 2 to 5"),
        ("normal_concat=[2, 3, 4, 5]", "normal_concat=5", "normal_concat must be a list"),
        ("normal=[(", "normal=[foo, (", "field 'normal' at line 1, column"),
    ],
)  # fmt: skip
def test_messages_name_the_place(old: str, new: str, message: str) -> None:
    with pytest.raises(GenotypeError, match=message):
        Genotype.from_text(V2_TEXT.replace(old, new, 1))


def test_missing_fields_are_listed() -> None:
    values = PUBLISHED["DARTS_V1"].to_dict()
    del values["reduce"]
    with pytest.raises(GenotypeError, match="missing or unknown: .*reduce"):
        Genotype.from_dict(values)


def test_skips_are_counted() -> None:
    assert PUBLISHED["DARTS_V2"].skips() == 2
    assert PUBLISHED["MMRAZOR_9732"].skips() == 4
    assert "none" not in KNOWN_OPERATIONS
