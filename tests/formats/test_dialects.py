"""Cells in the text formats of other projects: both ways, recognised, refused; nothing is run."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cell_texts import NNI_FORMS, nni_hub
from fuzz_tools import Patch, Printed, one_line
from hypothesis import given, settings
from hypothesis import strategies as st

from darts_lib.derivation import random_genotype
from darts_lib.formats import dialect_texts
from darts_lib.formats.cell_choice import find_genotype
from darts_lib.formats.dialects import DIALECTS, WRITTEN, main, read, recognise, write
from darts_lib.genotype import KNOWN_OPERATIONS, PUBLISHED, Genotype, GenotypeError, Pair
from darts_lib.retrain import RetrainConfig
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
TEXTS = {**{dialect: write(V2, dialect) for dialect in WRITTEN}, "nni": nni_hub(V2)}
NNI_V2, JSON_V2 = TEXTS["nni"], TEXTS["json"]


def can_hold(dialect: str, genotype: Genotype) -> bool:
    """Say whether `dialect` has a place for a cell: only MMRazor's lacks one for some."""
    cells = [genotype.pairs(kind) for kind in KINDS]
    concats = [tuple(range(2, 2 + len(pairs) // 2)) for pairs in cells]
    return dialect != "mmrazor" or (
        [genotype.concat(kind) for kind in KINDS] == concats
        and len(cells[0]) == len(cells[1])
        and not any(name in EXTRA_PRIMITIVES for pairs in cells for name, _ in pairs)
        and all(pairs[i][1] != pairs[i + 1][1] for pairs in cells for i in range(0, len(pairs), 2))
    )


@st.composite
def cells(draw: st.DrawFn) -> Genotype:
    """Draw any cell that the library allows: sources twice, extra operations, partial concats."""
    names = draw(st.sampled_from([PRIMITIVES[1:], KNOWN_OPERATIONS]))
    whole = draw(st.booleans())
    fields: list[tuple[Pair, ...] | tuple[int, ...]] = []
    for nodes in draw(st.sampled_from([(4, 4), (1, 1), (3, 3), (2, 5), (12, 12)])):
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
        return one_line(error)
    return ""


@pytest.mark.parametrize("dialect", WRITTEN)
@given(genotype=cells())
@settings(max_examples=40, deadline=None)
def test_any_cell_comes_back_or_is_refused(dialect: str, genotype: Genotype) -> None:
    check_both_ways(dialect, genotype)


def test_published_cells_come_back() -> None:
    for dialect in WRITTEN:
        for genotype in PUBLISHED.values():
            check_both_ways(dialect, genotype)
    held = {name for name, genotype in PUBLISHED.items() if can_hold("mmrazor", genotype)}
    assert held == {"DARTS_V1", "DARTS_V2", "MMRAZOR_9732", "MMRAZOR_ALIAS"}


def test_nested_text_and_mmrazor_files_are_literal() -> None:
    assert write(V2, "pt.darts") == NESTED_V2
    assert read(NESTED_V2) == V2
    assert read(NESTED_V2.replace("range(2, 6)", "[2, 3, 4, 5]").replace("], [", "],\n  [")) == V2
    assert FILE_9732.startswith(
        "normal_n2:\n  chosen:\n  - normal_n2_p0\n  - normal_n2_p1\n"
        "normal_n2_p0:\n  chosen:\n  - sep_conv_3x3\n"
    )
    assert write(PUBLISHED["MMRAZOR_9732"], "mmrazor") == FILE_9732
    assert read(FILE_9732) == PUBLISHED["MMRAZOR_9732"]
    assert read(FILE_ALIAS) == PUBLISHED["MMRAZOR_ALIAS"]
    assert read(write(PUBLISHED["MMRAZOR_ALIAS"], "mmrazor")) == PUBLISHED["MMRAZOR_ALIAS"]
    blocks = FILE_ALIAS.replace("\nnormal", "\n\nnormal").replace("\nreduce", "\n\nreduce")
    turned = "# 97.27 % & more\n" + "\n".join(reversed(blocks.split("\n\n")))
    text = turned.replace("- max_pool_3x3", "- max_pool_3x3  # new!", 1)
    assert "new!" in text
    assert read(text) == PUBLISHED["MMRAZOR_ALIAS"]


def flat(pairs: tuple[tuple[str, int], ...], tail: str = "") -> str:
    return ", ".join(f"('{name}', {source}{tail})" for name, source in pairs)


def by_node(pairs: tuple[tuple[str, int], ...], tail: str = "") -> str:
    return ", ".join(f"[{flat(pairs[i : i + 2], tail)}]" for i in range(0, len(pairs), 2))


@pytest.mark.parametrize(("pairs", "tail", "concat"), [
    (flat, "", "[2, 3, 4, 5]"),
    (by_node, "", "range(2, 6)"),
    (flat, ", 0.130174", "range(2, 6)"),  # a weight in each pair
    (by_node, ", 1.0", "(2, 3, 4, 5)"),
])  # fmt: skip
def test_a_cell_is_read_however_others_spell_it(pairs: Any, tail: str, concat: str) -> None:
    """Of D-X-Y/AutoDL-Projects#11 and khanrc/pt.darts#44."""
    text = (
        f"Genotype(normal=[{pairs(V2.normal, tail)}], normal_concat={concat}, "
        f"reduce=[{pairs(V2.reduce, tail)}], reduce_concat={concat})"
    )
    spread = "\n  " + re.sub(r"([\[(,=])", r" \1\n\t ", text) + "  # copied from a log\n"
    for spelling in (text, spread):
        assert find_genotype(spelling) == read(spelling) == V2
        assert RetrainConfig.create(scale="laptop", genotype=spelling).genotype == str(V2)


def test_what_is_no_weight_is_no_pair() -> None:
    for third in ("1", "None", "'0.5'", "0.1, 0.2"):
        with pytest.raises(GenotypeError, match=r"is not a pair \('operation', source\)"):
            find_genotype(str(V2).replace("'dil_conv_3x3', 2", f"'dil_conv_3x3', 2, {third}"))


@pytest.mark.parametrize("form", NNI_FORMS)
def test_nni_is_read_in_all_of_its_generations(form: str) -> None:
    for genotype in (V2, *map(random_genotype, range(5))):
        text = NNI_FORMS[form](genotype)
        assert recognise(text) == "nni"
        assert read(text) == genotype
    twice = NNI_V2.replace('"normal/input_2_1": [1]', '"normal/input_2_1": [0]')
    assert read(twice).normal[:2] == (("sep_conv_3x3", 0),) * 2
    with pytest.raises(GenotypeError, match="^nni is read but not written; use .*pt.darts, mmr"):
        write(V2, "nni")


RECOGNISED = [
    ("\n  " + str(V2).replace("[(", "[\n  ("), "original"),
    (str(V2).replace("('", "['").replace("), ", "], "), "original"),
    (NESTED_V2.replace("[[(", "[\n  [\n    ("), "pt.darts"),
    ("# a comment\n\n" + FILE_ALIAS, "mmrazor"),
    ('{"normal_n2": {"chosen": ["normal_n2_p0", "normal_n2_p1"]}}', "mmrazor"),
    ('{"normal/op_2_0": "sep_conv_3x3"}', "nni"),
    ('{"normal_n2_p0": "maxpool"}', "nni"),
    (json.dumps(V2.to_dict(), indent=1), "json"),
    ("{", "json"),
]


def test_dialects_are_recognised() -> None:
    assert [recognise(text) for text, _ in RECOGNISED] == [dialect for _, dialect in RECOGNISED]
    for text in ("", "DARTS_V2", "[1, 2]", "import os", "\0"):
        with pytest.raises(GenotypeError, match="line 1: .*original, pt.darts, mmrazor, nni, json"):
            read(text)
    for call in (lambda: read(str(V2), "nnni"), lambda: write(V2, "nnni")):
        with pytest.raises(GenotypeError, match="'nnni'; use one of original"):
            call()


def changed(**fields: object) -> Genotype:
    return Genotype.from_dict({**V2.to_dict(), **fields})


TWICE = [["skip_connect", 0], ["sep_conv_3x3", 1]] * 2 + [["skip_connect", 3]] * 2
SMALL = [["skip_connect", 0], ["sep_conv_3x3", 1]]
BOTH = changed(reduce=TWICE, reduce_concat=[2, 3, 4], normal=TWICE, normal_concat=[2, 3, 4])


def test_refusals_name_the_place_and_the_reason() -> None:
    for genotype, message in (
        (BOTH, "normal, node 4 takes source 3 twice, and mmrazor has one edge"),
        (changed(normal=SMALL, normal_concat=[2]), "not 1 and 4"),
        (changed(reduce_concat=[3, 5]), r"reduce_concat=\[3, 5\]: .*joins \[2, 3, 4, 5"),
        (changed(normal_concat=[5, 4, 3, 2]), r"normal_concat=\[5, 4, .*joins \[2"),
        (PUBLISHED["NASNet"], "reduce, node 2: mmrazor has no sep_conv_7x7"),
    ):
        with pytest.raises(GenotypeError, match=f"{message}.*write it as"):
            write(genotype, "mmrazor")


@pytest.mark.parametrize(("text", "old", "new", "message"), [
    (str(V2), "2, 3, 4, 5]", "2, 3", "original: .*line 1"),
    (str(V2), "'dil_conv_3x3', 2", "'dil_conv', 2", "original: normal, node 5: .*'dil_conv'"),
    (NESTED_V2, ", ('dil_conv_3x3', 2)]", "]", "pt.darts: field normal, node 5 .*two pairs"),
    (NESTED_V2, "('dil_conv_3x3', 2)", "foo", "pt.darts: .*'normal' at line 1, column"),
    (NESTED_V2, "('dil_conv_3x3', 2)", "7", "pt.darts: normal: 7 is not a pair"),
    (NESTED_V2, "reduce_concat", "concat", "pt.darts: .*missing or unknown: .*'concat'"),
    (FILE_9732, "normal_n3:\n  chosen", "normal_n3:\n  chose", "'normal_n3' holds .*'chose'"),
    (FILE_9732, "  - normal_n3_p1\n", "", r"normal_n3 chooses \['normal_n3_p0'\]; .*two of"),
    (FILE_9732, "- normal_n3_p1", "- normal_n3_p3", "normal_n3 chooses .*normal_n3_p2"),
    (FILE_9732, "- normal_n3_p1", "- normal_n3_p0", "normal_n3 chooses .*two of"),
    (FILE_9732, "- sep_conv_5x5", "- sep_conv_7x7", "normal_n3_p1 chooses 'sep_conv_7x7'; use"),
    (FILE_9732, "- sep_conv_5x5", "- zero", "normal_n3_p1 .*'zero'; it is never part"),
    (FILE_9732, "- sep_conv_5x5", "- 5", "normal_n3_p1 chooses 5; use one of"),
    (FILE_9732, "  - sep_conv_5x5\n", "", "'normal_n3_p1' holds .*write `chosen:` and a list"),
    (FILE_9732, "normal_n3_p1:", "normal_n3_p2:", "normal_n3_p1 is missing, and normal_n3"),
    (FILE_9732, "normal_n3:", "normal_n6:", "field normal_n3 is missing"),
    (FILE_9732, "normal_n3_p1:", "normal_3:", "unknown field 'normal_3'; .*normal_n2_p0"),
    (FILE_9732, "normal_n3_p1:", "17:", "unknown field 17"),
    (FILE_9732, "normal_n3:", "normal_n2:", "line 11: 'normal_n2' is there again.*line 1;"),
    (FILE_9732, "- sep_conv_5x5", "- 'sep", "mmrazor: line 20: found unexpected end"),
    (FILE_9732, "- sep_conv_5x5", "- \a", "mmrazor: line 20: special characters"),
    (FILE_9732, "- sep_conv_5x5", "- &a b", "mmrazor: line 20: '&' has no place"),
    (FILE_9732, "- sep_conv_5x5", "- ['a #', &a b]", "mmrazor: line 20: '&' has no place"),
    (FILE_9732, "- sep_conv_5x5", "- 2020-99-99", "mmrazor: line 1 or later: ValueError"),
    (NNI_V2, "normal/op_3_0", "normal/op_6_0", "unknown field 'normal/op_6_0'"),
    (NNI_V2, '"normal/op_3_0": "sep_conv_3x3",\n', "", "field normal/op_3_0 is missing"),
    (NNI_V2, "dil_conv_3x3", "none", "normal/op_5_1 chooses 'none'; it is never part of"),
    (NNI_V2, "[2]", "[0, 1]", r"normal/input_5_1 is \[0, 1\]; write one state"),
    (NNI_V2, "[2]", "true", "normal/input_5_1 is True; write one state"),
    (NNI_V2, "normal/op_3_0", "normal/op_2_0", "'normal/op_2_0' is there more than once"),
    (NNI_V2, ": [2],", " [2],", "nni: line 17: Expecting ':'"),
    (JSON_V2, "{", "[", "json: line 1: "),
    (JSON_V2, "0", "9" * 5000, "json: line 1 or later: Exceeds the limit"),
    (JSON_V2, "{", "[" * 5000, "json: line 1 or later: maximum recursion"),
])  # fmt: skip
def test_malformed_texts_name_the_place(text: str, old: str, new: str, message: str) -> None:
    dialect = recognise(text)
    assert old in text
    assert re.search(message, refusal(text.replace(old, new, 1), dialect))


def test_malformed_older_nni() -> None:
    for text in (
        '{"normal_n2_p0": "maxpool"}',
        '{"normal_n2_switch": [0, 0], "normal_n2_p0": 1}',
        '{"normal_n2_switch": [0, true], "normal_n2_p0": 1}',
        '{"normal_n2_switch": {"a": 1}}',
        '{"normal_n2": ["normal_n2_p0", "normal_n2_p1"]}',
        "{}",
    ):
        assert re.match("nni: (field |unknown field )?'?normal_n2", refusal(text, "nni")), text


def test_yaml_is_plain_data_even_if_a_tag_slips_through(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(dialect_texts, "_check_lines", lambda text: None)
    mark = tmp_path / "hostile"
    message = refusal(f"a: 1\nb: !!python/object/apply:os.system ['touch {mark}']", "mmrazor")
    assert "line 2: could not determine a constructor" in message
    assert not mark.exists()


def test_command_line_converts(tmp_path: Path, capsys: Printed) -> None:
    file = tmp_path / "cell"
    for source in DIALECTS:
        file.write_text(TEXTS[source] + "\n", encoding="utf-8-sig")
        for target in WRITTEN:
            for options in ([], ["--from", source]):
                main(["convert", str(file), *options, "--to", target])
                assert capsys.readouterr().out == TEXTS[target] + "\n"
    (tmp_path / "genotype.json").write_text(JSON_V2)
    for named in ("DARTS_V2", str(tmp_path)):
        main(["convert", named, "--to", "mmrazor"])
        assert capsys.readouterr().out == TEXTS["mmrazor"] + "\n"


def refused_by_main(arguments: list[str], capsys: Printed) -> str:
    """Return the one line on stderr of a conversion that ends with status 1."""
    with pytest.raises(SystemExit) as stopped:
        main(["convert", *arguments])
    printed = capsys.readouterr()
    assert (stopped.value.code, printed.out, len(printed.err.splitlines())) == (1, "", 1)
    return printed.err


def test_command_line_refuses_in_one_line(tmp_path: Path, capsys: Printed) -> None:
    file = tmp_path / "a cell\u2028of two lines"
    for content, options, message in (
        (b"normal_n2:\n  chosen:\n  - 'a", [], "mmrazor: line "),
        (b"\xff\xfe\xff", [], "is no text"),
        (b"hello", [], "line 1: 'hello' is the start of no known dialect"),
        (JSON_V2.encode(), ["--from", "mmrazor"], "'normal' "),
    ):
        file.write_bytes(content)
        said = refused_by_main([str(file), "--to", "json", *options], capsys)
        assert said.startswith(f"{tmp_path / 'a cell of two lines'}: ")
        assert message in said
    for cell, target, message in (
        ("NASNet", "mmrazor", "mmrazor has no sep_conv_7x7"),
        ("DARTS_V3", "mmrazor", "did you mean 'DARTS_V2'?"),
        ("no/such/file", "mmrazor", "nothing is there"),
        ("DARTS_V2", "nni", "nni is read but not written; use one of original, pt.darts, mmrazor"),
    ):
        assert message in refused_by_main([cell, "--to", target], capsys)


def test_command_line_as_a_module(tmp_path: Path) -> None:
    file = tmp_path / "cell.yaml"
    file.write_text(FILE_ALIAS)
    command = [sys.executable, "-m", "darts_lib.dialects", "convert", str(file), "--to", "original"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == (str(PUBLISHED["MMRAZOR_ALIAS"]), "")
