"""Cells in the text formats of other projects: both ways, recognised, refused; nothing is run."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darts_lib.derivation import random_genotype
from darts_lib.formats import dialect_texts
from darts_lib.formats.dialects import DIALECTS, LIMIT, main, read, recognise, write
from darts_lib.genotype import KNOWN_OPERATIONS, PUBLISHED, Genotype, GenotypeError, Pair
from darts_lib.search_space import EXTRA_PRIMITIVES, KINDS, PRIMITIVES

V2 = PUBLISHED["DARTS_V2"]
NESTED_V2 = (
    "Genotype(normal=[[('sep_conv_3x3', 0), ('sep_conv_3x3', 1)], [('sep_conv_3x3', 0), "
    "('sep_conv_3x3', 1)], [('sep_conv_3x3', 1), ('skip_connect', 0)], [('skip_connect', 0), "
    "('dil_conv_3x3', 2)]], normal_concat=range(2, 6), reduce=[[('max_pool_3x3', 0), "
    "('max_pool_3x3', 1)], [('skip_connect', 2), ('max_pool_3x3', 1)], [('max_pool_3x3', 0), "
    "('skip_connect', 2)], [('skip_connect', 2), ('max_pool_3x3', 1)]], reduce_concat=range(2, 6))"
)


def mmrazor_text(table: str) -> str:
    """Lay out lines `node: [chosen] edge operation, ...` as MMRazor's file does."""
    lines = []
    for row in table.strip().splitlines():
        node, chosen, edges = (part.strip() for part in row.split("|"))
        lines += [f"{node}:", "  chosen:", *(f"  - {node}_{edge}" for edge in chosen.split())]
        for edge, operation in (item.split() for item in edges.split(",")):
            lines += [f"{node}_{edge}:", "  chosen:", f"  - {operation}"]
    return "\n".join(lines)


# The two published files, from the tables of their edges. The second lists unchosen edges too.
FILE_9732 = mmrazor_text("""
    normal_n2 | p0 p1 | p0 sep_conv_3x3, p1 sep_conv_3x3
    normal_n3 | p0 p1 | p0 skip_connect, p1 sep_conv_5x5
    normal_n4 | p0 p1 | p0 sep_conv_3x3, p1 skip_connect
    normal_n5 | p0 p1 | p0 skip_connect, p1 skip_connect
    reduce_n2 | p0 p1 | p0 max_pool_3x3, p1 sep_conv_3x3
    reduce_n3 | p0 p2 | p0 max_pool_3x3, p2 dil_conv_5x5
    reduce_n4 | p0 p2 | p0 max_pool_3x3, p2 skip_connect
    reduce_n5 | p0 p2 | p0 max_pool_3x3, p2 skip_connect
""")
FILE_ALIAS = mmrazor_text("""
    normal_n2 | p1 p0 | p0 sep_conv_3x3, p1 sep_conv_3x3
    normal_n3 | p0 p1 | p0 sep_conv_3x3, p1 sep_conv_3x3, p2 sep_conv_3x3
    normal_n4 | p0 p1 | p0 skip_connect, p1 sep_conv_3x3, p2 skip_connect, p3 sep_conv_3x3
    normal_n5 | p2 p0 | p0 skip_connect, p1 skip_connect, p2 dil_conv_3x3, p3 skip_connect, p4 zero
    reduce_n2 | p0 p1 | p0 max_pool_3x3, p1 max_pool_3x3
    reduce_n3 | p1 p2 | p0 max_pool_3x3, p1 max_pool_3x3, p2 skip_connect
    reduce_n4 | p2 p0 | p0 max_pool_3x3, p1 max_pool_3x3, p2 skip_connect, p3 skip_connect
    reduce_n5 | p1 p2 | p0 max_pool_3x3, p1 max_pool_3x3, p2 skip_connect, p3 skip_connect, p4 zero
""")
OLD_NAMES = {
    "max_pool_3x3": "maxpool",
    "avg_pool_3x3": "avgpool",
    "skip_connect": "skipconnect",
    "sep_conv_3x3": "sepconv3x3",
    "sep_conv_5x5": "sepconv5x5",
    "dil_conv_3x3": "dilconv3x3",
    "dil_conv_5x5": "dilconv5x5",
}


def sources(pairs: Sequence[Pair]) -> list[tuple[int, int]]:
    return [(pairs[i][1], pairs[i + 1][1]) for i in range(0, len(pairs), 2)]


def can_hold(dialect: str, genotype: Genotype) -> bool:
    if dialect in ("original", "pt.darts", "json"):
        return True
    sizes = [len(genotype.pairs(kind)) // 2 for kind in KINDS]
    for kind, size in zip(KINDS, sizes, strict=True):
        if list(genotype.concat(kind)) != list(range(2, 2 + size)):
            return False
        if any(name in EXTRA_PRIMITIVES for name, _ in genotype.pairs(kind)):
            return False
        if dialect == "mmrazor" and any(a == b for a, b in sources(genotype.pairs(kind))):
            return False
    return sizes == [4, 4] if dialect == "nni" else sizes[0] == sizes[1]


@st.composite
def cells(draw: st.DrawFn) -> Genotype:
    """Draw any cell that the library allows: sources twice, extra operations, partial concats."""
    names = draw(st.sampled_from([PRIMITIVES[1:], KNOWN_OPERATIONS]))
    whole = draw(st.booleans())
    fields: list[tuple[Pair, ...] | tuple[int, ...]] = []
    for nodes in draw(st.sampled_from([(4, 4), (1, 1), (3, 3), (2, 5)])):
        pairs = [
            (draw(st.sampled_from(names)), draw(st.integers(0, node - 1)))
            for node in range(2, 2 + nodes)
            for _ in range(2)
        ]
        states = list(range(2, 2 + nodes))
        some = draw(st.permutations(states))[: draw(st.integers(1, nodes))]
        fields += [tuple(pairs), tuple(states if whole else some)]
    normal, normal_concat, reduce, reduce_concat = fields
    return Genotype(normal, normal_concat, reduce, reduce_concat)  # type: ignore[arg-type]


def check_both_ways(dialect: str, genotype: Genotype) -> None:
    if can_hold(dialect, genotype):
        text = write(genotype, dialect)
        assert text == text.strip()
        assert read(text, dialect) == genotype
        assert recognise(text) == dialect
    else:
        with pytest.raises(GenotypeError, match=r"write it as original, pt\.darts or json\.$"):
            write(genotype, dialect)


def refusal(text: str, dialect: str) -> str:
    """Return the message of the error, "" where the text is a cell; nothing else may happen."""
    try:
        assert isinstance(read(text, dialect), Genotype)
    except GenotypeError as error:
        message = str(error)
    else:
        return ""
    assert len(message.splitlines()) == 1
    assert len(message) < 600
    return message


@pytest.mark.parametrize("dialect", DIALECTS)
@given(genotype=cells())
@settings(max_examples=60, deadline=None)
def test_any_cell_comes_back_or_is_refused(dialect: str, genotype: Genotype) -> None:
    check_both_ways(dialect, genotype)


@pytest.mark.parametrize("dialect", DIALECTS)
@given(seed=st.integers(0, 10**6), nodes=st.sampled_from([4, 4, 1, 3, 12]))
@settings(max_examples=30, deadline=None)
def test_random_cells_come_back(dialect: str, seed: int, nodes: int) -> None:
    check_both_ways(dialect, random_genotype(seed, nodes))


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_cells(dialect: str, name: str) -> None:
    check_both_ways(dialect, PUBLISHED[name])


def test_which_published_cells_the_narrow_dialects_hold() -> None:
    for dialect in ("mmrazor", "nni"):
        held = {name for name, genotype in PUBLISHED.items() if can_hold(dialect, genotype)}
        assert held == {"DARTS_V1", "DARTS_V2", "MMRAZOR_9732", "MMRAZOR_ALIAS"}


def test_nested_text_is_literal() -> None:
    assert write(V2, "pt.darts") == NESTED_V2
    assert read(NESTED_V2) == V2
    assert read(NESTED_V2.replace("range(2, 6)", "[2, 3, 4, 5]").replace("], [", "],\n  [")) == V2


def test_mmrazor_files_are_literal() -> None:
    assert FILE_9732.startswith(
        "normal_n2:\n  chosen:\n  - normal_n2_p0\n  - normal_n2_p1\n"
        "normal_n2_p0:\n  chosen:\n  - sep_conv_3x3\n"
    )
    assert write(PUBLISHED["MMRAZOR_9732"], "mmrazor") == FILE_9732
    assert read(FILE_9732) == PUBLISHED["MMRAZOR_9732"]
    assert read(FILE_ALIAS) == PUBLISHED["MMRAZOR_ALIAS"]
    assert read(write(PUBLISHED["MMRAZOR_ALIAS"], "mmrazor")) == PUBLISHED["MMRAZOR_ALIAS"]


def test_mmrazor_order_of_names_and_comments_are_free() -> None:
    blocks = FILE_ALIAS.replace("\nnormal", "\n\nnormal").replace("\nreduce", "\n\nreduce")
    turned = "# 97.27 % & more\n" + "\n".join(reversed(blocks.split("\n\n")))
    text = turned.replace("- max_pool_3x3", "- max_pool_3x3  # new!", 1)
    assert "new!" in text
    assert read(text) == PUBLISHED["MMRAZOR_ALIAS"]


def test_nni_hub_dictionary() -> None:
    table = json.loads(write(V2, "nni"))
    assert len(table) == 32
    assert table["normal/op_5_1"] == "dil_conv_3x3"
    assert table["normal/input_5_1"] == [2]
    assert table["reduce/op_3_0"] == "skip_connect"
    assert table["reduce/input_3_0"] == [2]
    plain = {name: value[0] if "input" in name else value for name, value in table.items()}
    assert read(json.dumps({"width": 36, "depth": 20, **plain})) == V2


@pytest.mark.parametrize("numbers", [False, True])
@pytest.mark.parametrize("lists", [False, True])
def test_nni_older_examples(numbers: bool, lists: bool) -> None:
    table: dict[str, object] = {}
    for kind in KINDS:
        pairs = V2.pairs(kind)
        for node in range(2, 6):
            chosen = pairs[2 * node - 4 : 2 * node - 2]
            stem = f"{kind}_n{node}"
            table |= {f"{stem}_p{source}": [] for source in range(node)}
            for name, source in chosen:
                choice = list(OLD_NAMES).index(name) if numbers else OLD_NAMES[name]
                table[f"{stem}_p{source}"] = [choice] if lists else choice
            switch = [source if numbers else f"{stem}_p{source}" for _, source in chosen]
            table[f"{stem}_switch"] = switch
    assert tuple(OLD_NAMES) == PRIMITIVES[1:]
    assert recognise(json.dumps(table)) == "nni"
    assert read(json.dumps(table)) == V2


@pytest.mark.parametrize(
    ("text", "dialect"),
    [
        (str(V2), "original"),
        ("\n  " + str(V2).replace("[(", "[\n  ("), "original"),
        (str(V2).replace("('", "['").replace("), ", "], "), "original"),
        (NESTED_V2, "pt.darts"),
        (NESTED_V2.replace("[[(", "[\n  [\n    ("), "pt.darts"),
        (FILE_9732, "mmrazor"),
        ("# a comment\n\n" + FILE_ALIAS, "mmrazor"),
        ('{"normal_n2": {"chosen": ["normal_n2_p0", "normal_n2_p1"]}}', "mmrazor"),
        ('{"normal/op_2_0": "sep_conv_3x3"}', "nni"),
        ('{"normal_n2_p0": "maxpool"}', "nni"),
        (json.dumps(V2.to_dict(), indent=1), "json"),
        ("{", "json"),
    ],
)
def test_dialects_are_recognised(text: str, dialect: str) -> None:
    assert recognise(text) == dialect


@pytest.mark.parametrize("text", ["", "DARTS_V2", "[1, 2]", "import os", "\0"])
def test_what_is_not_recognised_names_the_dialects(text: str) -> None:
    with pytest.raises(GenotypeError, match="line 1: .*original, pt.darts, mmrazor, nni, json"):
        read(text)


def test_an_unknown_dialect_is_refused() -> None:
    with pytest.raises(GenotypeError, match="'nnni'; use one of original"):
        read(str(V2), "nnni")
    with pytest.raises(GenotypeError, match="'nnni'; use one of original"):
        write(V2, "nnni")


def changed(**fields: object) -> Genotype:
    return Genotype.from_dict({**V2.to_dict(), **fields})


TWICE = [["skip_connect", 0], ["sep_conv_3x3", 1]] * 2 + [["skip_connect", 3]] * 2
SMALL = [["skip_connect", 0], ["sep_conv_3x3", 1]]


@pytest.mark.parametrize(
    ("genotype", "dialect", "message"),
    [
        (changed(reduce=TWICE, reduce_concat=[2, 3, 4], normal=TWICE, normal_concat=[2, 3, 4]),
            "mmrazor", "normal, node 4 takes source 3 twice, and mmrazor has one edge"),
        (changed(normal=SMALL, normal_concat=[2]), "mmrazor", "not 1 and 4"),
        (changed(normal=SMALL, normal_concat=[2]), "nni", "normal: .*four nodes, not 1"),
        (changed(reduce=TWICE, reduce_concat=[2, 3, 4]), "nni", "reduce: .*four nodes, not 3"),
        (changed(reduce_concat=[3, 5]), "mmrazor", r"reduce_concat=\[3, 5\]: .*joins \[2, 3, 4, 5"),
        (changed(normal_concat=[5, 4, 3, 2]), "nni", r"normal_concat=\[5, 4, 3, 2\]: .*joins \[2"),
        (PUBLISHED["NASNet"], "mmrazor", "reduce, node 2: mmrazor has no sep_conv_7x7"),
        (PUBLISHED["AmoebaNet"], "nni", "reduce, node 3: nni has no sep_conv_7x7"),
    ],
)  # fmt: skip
def test_refusals_name_the_place_and_the_reason(
    genotype: Genotype, dialect: str, message: str
) -> None:
    with pytest.raises(GenotypeError, match=f"{message}.*write it as"):
        write(genotype, dialect)


NNI_V2, JSON_V2 = write(V2, "nni"), write(V2, "json")


@pytest.mark.parametrize(
    ("text", "old", "new", "message"),
    [
        (str(V2), "2, 3, 4, 5]", "2, 3", "original: .*line 1"),
        (str(V2), "'dil_conv_3x3', 2", "'dil_conv', 2", "original: normal, node 5: .*'dil_conv'"),
        (NESTED_V2, ", ('dil_conv_3x3', 2)]", "]", "pt.darts: field normal, node 5 .*two pairs"),
        (NESTED_V2, "('dil_conv_3x3', 2)", "foo", "pt.darts: .*'normal' at line 1, column"),
        (NESTED_V2, "('dil_conv_3x3', 2)", "7", "pt.darts: normal: 7 is not a pair"),
        (NESTED_V2, "reduce_concat", "concat", "pt.darts: .*missing or unknown: .*'concat'"),
        (FILE_9732, "normal_n3:\n  chosen", "normal_n3:\n  chose", "'normal_n3' holds .*'chose'"),
        (FILE_9732, "  - normal_n3_p1\n", "", r"normal_n3 chooses \['normal_n3_p0'\]; .*two of"),
        (FILE_9732, "- normal_n3_p1", "- normal_n3_p3", "normal_n3 chooses .*normal_n3_p2"),
        (FILE_9732, "- normal_n3_p1", "- normal_n2_p1", "normal_n3 chooses .*normal_n3_p2"),
        (FILE_9732, "- normal_n3_p1", "- normal_n3_p0", "normal_n3 chooses .*two of"),
        (FILE_9732, "- sep_conv_5x5", "- sep_conv_7x7", "normal_n3_p1 chooses 'sep_conv_7x7'; use"),
        (FILE_9732, "- sep_conv_5x5", "- zero", "normal_n3_p1 .*'zero'; it is never part"),
        (FILE_9732, "- sep_conv_5x5", "- 5", "normal_n3_p1 chooses 5; use one of"),
        (FILE_9732, "  - sep_conv_5x5\n", "", "'normal_n3_p1' holds .*write `chosen:` and a list"),
        (FILE_9732, "normal_n3_p1:", "normal_n3_p2:", "normal_n3_p1 is missing, and normal_n3"),
        (FILE_9732, "normal_n3:", "normal_n6:", "field normal_n3 is missing"),
        (FILE_9732, "reduce_n5:", "reduce_n4_p3:", "field reduce_n5 is missing"),
        (FILE_9732, "normal_n3_p1:", "normal_3:", "unknown field 'normal_3'; .*normal_n2_p0"),
        (FILE_9732, "normal_n3_p1:", "17:", "unknown field 17"),
        (FILE_9732, "normal_n3:", "normal_n2:", "line 11: 'normal_n2' is there again.*line 1;"),
        (FILE_9732, "- sep_conv_5x5", "- 'sep", "mmrazor: line 20: found unexpected end"),
        (FILE_9732, "- sep_conv_5x5", "- \a", "mmrazor: line 20: special characters"),
        (FILE_9732, "- sep_conv_5x5", "- &a b", "mmrazor: line 20: '&' has no place"),
        (FILE_9732, "- sep_conv_5x5", "- ['a #', &a b]", "mmrazor: line 20: '&' has no place"),
        (FILE_9732, "- sep_conv_5x5", "- 2020-99-99", "mmrazor: line 1 or later: ValueError"),
        (NNI_V2, "normal/op_3_0", "normal/op_6_0", "unknown field 'normal/op_6_0'"),
        (NNI_V2, '  "normal/op_3_0": "sep_conv_3x3",\n', "", "field normal/op_3_0 is missing"),
        (NNI_V2, "dil_conv_3x3", "none", "normal/op_5_1 chooses 'none'; it is never part of"),
        (NNI_V2, "[2]", "[0, 1]", r"normal/input_5_1 is \[0, 1\]; write one state"),
        (NNI_V2, "[2]", "true", "normal/input_5_1 is True; write one state"),
        (NNI_V2, "[2]", "7", "nni: normal, node 5: source 7 .*use 0 to 4"),
        (NNI_V2, "normal/op_3_0", "normal/op_2_0", "'normal/op_2_0' is there more than once"),
        (NNI_V2, ": [2],", " [2],", "nni: line 17: Expecting ':'"),
        (JSON_V2, '"reduce"', '"reduced"', "json: .*missing or unknown: .*'reduced'"),
        (JSON_V2, '["dil_conv_3x3", 2]', "3", "json: normal: 3 is not a pair"),
        (JSON_V2, "{", "[", "json: line 1: "),
        (JSON_V2, "0", "9" * 5000, "json: line 1 or later: Exceeds the limit"),
        (JSON_V2, "{", "[" * 5000, "json: line 1 or later: maximum recursion"),
    ],
)
def test_malformed_texts_name_the_place(text: str, old: str, new: str, message: str) -> None:
    dialect = recognise(text)
    assert old in text
    assert re.search(message, refusal(text.replace(old, new, 1), dialect))


@pytest.mark.parametrize(
    "text",
    [
        '{"normal_n2_p0": "maxpool"}',
        '{"normal_n2_switch": [0, 0], "normal_n2_p0": 1}',
        '{"normal_n2_switch": [0, true], "normal_n2_p0": 1}',
        '{"normal_n2_switch": {"a": 1}}',
        '{"normal_n2": ["normal_n2_p0", "normal_n2_p1"]}',
        "{}",
    ],
)
def test_malformed_older_nni(text: str) -> None:
    with pytest.raises(GenotypeError, match="nni: (field |unknown field )?'?normal_n2"):
        read(text, "nni")


@pytest.mark.parametrize("dialect", ["", *DIALECTS])
@pytest.mark.parametrize(
    "text",
    [
        "[" * 20_000,
        "{" * 20_000,
        '{"a":' * 10_000,
        "- " * 20_000,
        "Genotype(" * 1000,
        "Genotype(normal=" + "-" * 20_000 + "1)",
        "Genotype(normal=" + "1+" * 20_000 + "1)",
        "Genotype(normal=[0x" + "f" * 9000 + "], normal_concat=[2], reduce=[], reduce_concat=[2])",
        "Genotype(normal=[[('a', 0), ('b', 0x" + "f" * 9000 + ")]], normal_concat=[2],"
        " reduce=[[]], reduce_concat=[2])",
        "Genotype(normal=[('\u2028', 0)], normal_concat=[2], reduce=[], reduce_concat=[2])",
        '{"normal/op_2_0": ' + "9" * 5000 + "}",
        '{"normal": "' + "a" * 9000 + '", "normal_concat": 2, "reduce": 1, "reduce_concat": 2}',
        "chosen: 0x" + "f" * 9000,
        "chosen: " + "1:" * 900 + "1.5",
        "normal_n2: {chosen: [[1], {a: b}]}",
        "? [a]\n: chosen",
        "normal_n2: &a {chosen: *a}",
        "\ud800",
        "normal_n2: \ud800",
    ],
)  # fmt: skip
def test_deep_long_and_odd_texts(text: str, dialect: str) -> None:
    assert refusal(text, dialect)


def test_a_text_without_end_is_refused_at_once() -> None:
    with pytest.raises(GenotypeError, match="more than 100000 characters"):
        read(FILE_9732 + "\n" * LIMIT, "mmrazor")


@pytest.mark.parametrize("dialect", ["", *DIALECTS])
@given(text=st.text(max_size=200))
@settings(max_examples=60, deadline=None)
def test_any_text_gives_a_cell_or_one_line(dialect: str, text: str) -> None:
    for start in ("", "Genotype(normal=[[(", '{"normal/op_2_0": ', "normal_n2:\n  chosen: "):
        refusal(start + text, dialect)


VALID = {dialect: write(V2, dialect) for dialect in DIALECTS}
BITS = st.one_of(
    st.text(max_size=6),
    st.sampled_from(
        [*"()[]{}:,'\"#&*!-|>?%@`", "\n", "\n  ", "0x9", "1e999", "null", "~", "<<", "range(", "p9"]
    ),
)


@pytest.mark.parametrize("dialect", DIALECTS)
@given(data=st.data())
@settings(max_examples=120, deadline=None)
def test_mutated_files_give_a_cell_or_one_line(dialect: str, data: st.DataObject) -> None:
    text = VALID[dialect]
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = start + data.draw(st.integers(0, 12))
        text = text[:start] + data.draw(BITS) + text[end:]
    refusal(text, dialect)
    refusal(text, "")


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 9), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=5,
)


@pytest.mark.parametrize("dialect", ["nni", "json", "mmrazor"])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_field_of_any_value_gives_a_cell_or_one_line(dialect: str, data: st.DataObject) -> None:
    text = VALID[dialect]
    table = json.loads(text) if dialect != "mmrazor" else {"normal_n2": {"chosen": 0}}
    field = data.draw(st.sampled_from(list(table)))
    value = data.draw(VALUES)
    table[field] = {"chosen": value} if dialect == "mmrazor" else value
    refusal(json.dumps(table), dialect)


@pytest.mark.parametrize("dialect", ["", *DIALECTS])
@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch {mark}']",
        "normal_n2:\n  chosen: !!python/object/apply:os.system ['touch {mark}']",
        "normal_n2: {{chosen: [\"a#\", !!python/object/new:os.system ['touch {mark}'] ]}}",
        "Genotype(normal=__import__('os').system('touch {mark}'))",
        "Genotype(normal=[[(__import__('os').system('touch {mark}'), 0)]])",
    ],
)
def test_nothing_is_run(text: str, dialect: str, tmp_path: Path) -> None:
    mark = tmp_path / "hostile"
    with pytest.raises(GenotypeError):
        read(text.format(mark=mark), dialect)
    assert not mark.exists()


def test_yaml_is_read_as_plain_data_even_where_a_tag_slips_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialect_texts, "_check_lines", lambda text: None)
    mark = tmp_path / "hostile"
    message = refusal(f"a: 1\nb: !!python/object/apply:os.system ['touch {mark}']", "mmrazor")
    assert "line 2: could not determine a constructor" in message
    assert not mark.exists()


@pytest.mark.parametrize("target", DIALECTS)
@pytest.mark.parametrize("source", DIALECTS)
def test_command_line_converts(
    source: str, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cell"
    file.write_text(VALID[source] + "\n", encoding="utf-8-sig")
    main(["convert", str(file), "--to", target])
    assert capsys.readouterr().out == VALID[target] + "\n"
    main(["convert", str(file), "--from", source, "--to", target])
    assert capsys.readouterr().out == VALID[target] + "\n"


def test_command_line_takes_published_names_and_run_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = PUBLISHED["DARTS_V2"]
    (tmp_path / "genotype.json").write_text(write(cell, "json"))
    for named in ("DARTS_V2", str(tmp_path)):
        main(["convert", named, "--to", "mmrazor"])
        assert capsys.readouterr().out == write(cell, "mmrazor") + "\n"


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"normal_n2:\n  chosen:\n  - 'a", ["--to", "json"], "mmrazor: line "),
        (b"\xff\xfe\xff", ["--to", "json"], "is no text"),
        (b"hello", ["--to", "json"], "line 1: 'hello' is the start of no known dialect"),
        (
            JSON_V2.encode(),
            ["--to", "nni", "--from", "mmrazor"],
            "unknown field 'normal'|'normal' ",
        ),
    ],
)
def test_command_line_refuses_in_one_line(
    content: bytes,
    options: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "a cell\u2028of two lines"
    file.write_bytes(content)
    with pytest.raises(SystemExit) as stopped:
        main(["convert", str(file), *options])
    assert stopped.value.code == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert printed.err.startswith(f"{tmp_path / 'a cell of two lines'}: ")
    assert re.search(message, printed.err)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("NASNet", "mmrazor has no sep_conv_7x7"),
        ("DARTS_V3", "did you mean 'DARTS_V2'?"),
        ("no/such/file", "nothing is there"),
    ],
)
def test_command_line_names_a_cell_that_is_not_there_or_cannot_be_written(
    cell: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["convert", cell, "--to", "mmrazor"])
    printed = capsys.readouterr()
    assert (stopped.value.code, printed.out, printed.err.count("\n")) == (1, "", 1)
    assert message in printed.err


def test_command_line_as_a_module(tmp_path: Path) -> None:
    file = tmp_path / "cell.yaml"
    file.write_text(FILE_ALIAS)
    command = [sys.executable, "-m", "darts_lib.dialects", "convert", str(file), "--to", "original"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == str(PUBLISHED["MMRAZOR_ALIAS"])
    file.write_text("nothing")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
