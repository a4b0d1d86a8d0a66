"""Genotypes as data: text and JSON both ways, nothing run, errors that name what is wrong."""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darts_lib.derivation import random_genotype
from darts_lib.genotype import KNOWN_OPERATIONS, PUBLISHED, Genotype, GenotypeError
from darts_lib.recurrent import genotype as recurrent
from darts_lib.recurrent.genotype import RecurrentGenotype

V2 = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), "
    "('sep_conv_3x3', 1), ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), "
    "('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), "
    "('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])"
)
RECURRENT_V2 = (
    "Genotype(recurrent=[('sigmoid', 0), ('relu', 1), ('relu', 1), ('identity', 1), ('tanh', 2), "
    "('sigmoid', 5), ('tanh', 3), ('relu', 5)], concat=range(1, 9))"
)


def test_published_cells_as_text() -> None:
    assert str(PUBLISHED["DARTS_V2"]) == V2
    assert str(recurrent.PUBLISHED["DARTS_V2"]) == RECURRENT_V2
    enas = recurrent.PUBLISHED["ENAS"]
    assert (enas.nodes, enas.concat) == (11, (2, 5, 6, 9, 10, 11))
    assert recurrent.PUBLISHED["DARTS_V1"].recurrent[5] == ("identity", 1)
    text = V2.replace("[2, 3, 4, 5]", "range(2,6)").replace(", (", ",\n      (")
    assert Genotype.from_text(f"  {text}\n") == PUBLISHED["DARTS_V2"]
    text = RECURRENT_V2.replace("range(1, 9)", "[1, 2, 3, 4, 5, 6, 7, 8]")
    assert RecurrentGenotype.from_text(text) == recurrent.PUBLISHED["DARTS_V2"]
    alias, v2 = (PUBLISHED[n].normal + PUBLISHED[n].reduce for n in ("MMRAZOR_ALIAS", "DARTS_V2"))
    assert alias != v2
    assert all(sorted(alias[i : i + 2]) == sorted(v2[i : i + 2]) for i in range(0, 16, 2))
    assert PUBLISHED["DARTS_V2"].skips() == 2
    assert PUBLISHED["MMRAZOR_9732"].skips() == 4
    assert "none" not in KNOWN_OPERATIONS


@given(seed=st.integers(0, 10**6), nodes=st.integers(1, 7))
@settings(max_examples=30, deadline=None)
def test_round_trips_of_random_cells(seed: int, nodes: int) -> None:
    for cell in (random_genotype(seed, nodes), recurrent.random_genotype(seed, nodes)):
        assert type(cell).from_text(str(cell)) == cell
        assert type(cell).from_dict(json.loads(json.dumps(cell.to_dict()))) == cell


def small(pairs: str, concat: str = "[1]") -> str:
    return f"Genotype(recurrent=[{pairs}], concat={concat})"


LAST, CONCAT = "('dil_conv_3x3', 2)", "normal_concat=[2, 3, 4, 5]"


@pytest.mark.parametrize(("text", "words"), [
    ("__import__('os').system('touch /tmp/hostile')", "expected Genotype(...)"),
    ("Genotype(**{})", "a genotype's fields are named"),
    ("(" * 5000, "line 1 cannot be read"),
    (V2[:-1], "line 1 cannot be read"),
    (V2.replace("normal=", "", 1), "a genotype's fields are named"),
    (V2.replace("normal_concat", "normal_concats"), "missing or unknown: ['normal_concat'"),
    (V2.replace("[2, 3, 4, 5]", "range(2, 10**9)", 1), "'normal_concat' at line 1, column"),
    (V2.replace(CONCAT, "normal_concat=[2, 2]"), "normal_concat=[2, 2] must list distinct"),
    (V2.replace(CONCAT, "normal_concat=[2, 9]"), "[2, 9] must list distinct nodes from 2 to 5"),
    (V2.replace(CONCAT, "normal_concat=5"), "normal_concat must be a list"),
    (V2.replace(LAST, "('dil_conv_3x3', True)"), "is not a pair ('operation', source)"),
    (V2.replace(LAST, "('dil_conv_3x3', 2, 1)"), "is not a pair ('operation', source)"),
    (V2.replace(LAST, "('dil_conv_3', 2)"), "node 5: unknown operation 'dil_conv_3'; did"),
    (V2.replace(LAST, "('relu', 2)"), "node 5: unknown operation 'relu'; known: max_pool_3x3"),
    (V2.replace(LAST, "('none', 2)"), "operation 'none'; 'none' competes in the search"),
    (V2.replace(LAST, "('dil_conv_3x3', 5)"), "5: source 5 is not an earlier state; use 0 to 4"),
    (V2.replace(f", {LAST}", ""), "normal: 7 pairs; every node needs 2"),
    (small("('tnh', 0)"), "node 1: unknown activation 'tnh'; did you mean 'tanh'?"),
    (small("('tanh', 1)"), "recurrent, node 1: source 1 is not an earlier state; use 0 to 0"),
    (small("('tanh', '0')"), "is not a pair ('activation', source)"),
    (small(""), "recurrent: no pairs; a cell needs at least one node"),
    (small("('tanh', 0)", "[2]"), "concat=[2] must list distinct nodes from 1 to 1"),
    (small("('tanh', 0)", "[]"), "concat=[] must"),
    (small("('tanh', 0)", "[True]"), "concat: True is not a state number"),
    (small("('tanh', 0)", "[1], more=[]"), "recurrent genotype fields must be ['recurrent'"),
])  # fmt: skip
def test_bad_texts_are_refused_and_nothing_runs(text: str, words: str) -> None:
    kind = RecurrentGenotype if "recurrent" in text else Genotype
    with pytest.raises(GenotypeError) as caught:
        kind.from_text(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not os.path.exists("/tmp/hostile")


def test_what_is_no_object_is_refused() -> None:
    with pytest.raises(GenotypeError, match=r"must be an object with \['recurrent', 'concat'\]"):
        RecurrentGenotype.from_dict([])
