"""Cells in the text formats of other projects: both ways, recognised, refused; nothing is run."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cell_texts import NNI_FORMS, nni_hub
from fuzz_tools import Patch, Printed, one_line

from darts_lib.derivation import random_genotype
from darts_lib.engine.command_line import run_command
from darts_lib.formats import dialect_texts
from darts_lib.formats.cell_choice import find_genotype
from darts_lib.formats.dialects import WRITTEN, read, recognise, write
from darts_lib.genotype import PUBLISHED, Genotype, GenotypeError
from darts_lib.retrain import RetrainConfig
from darts_lib.tools.dialects import main

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
NNI_V2, JSON_V2, FLAT_V2 = TEXTS["nni"], TEXTS["json"], str(V2)


def changed(**fields: object) -> Genotype:
    return Genotype.from_dict({**V2.to_dict(), **fields})


TWICE = [["skip_connect", 0], ["sep_conv_3x3", 1]] * 2 + [["skip_connect", 3]] * 2
NO_PLACE = [
    (changed(reduce=TWICE, reduce_concat=[2, 3, 4], normal=TWICE, normal_concat=[2, 3, 4]),
     "normal_n4 chooses ['normal_n4_p3', 'normal_n4_p3']; it needs two different edges"),
    (changed(normal=TWICE[:2], normal_concat=[2]), "normal_n3 chooses nothing"),
    (changed(reduce_concat=[3, 5]), "reduce_concat=[3, 5]: mmrazor always joins [2, 3, 4, 5]"),
    (changed(normal_concat=[5, 4, 3, 2]), "normal_concat=[5, 4, 3, 2]: mmrazor always joins [2"),
    (PUBLISHED["NASNet"], "reduce, node 2: mmrazor has no sep_conv_7x7"),
]  # fmt: skip
"""Cells that MMRazor's format cannot hold, and why."""
EVERYWHERE = [
    *(PUBLISHED[name] for name in ("DARTS_V1", "DARTS_V2", "MMRAZOR_9732", "MMRAZOR_ALIAS")),
    *(random_genotype(seed, nodes) for nodes in (1, 3, 4, 12) for seed in range(5)),
]


@pytest.mark.parametrize("dialect", WRITTEN)
def test_published_and_other_cells_come_back(dialect: str) -> None:
    others = [] if dialect == "mmrazor" else [cell for cell, _ in NO_PLACE]
    for cell in EVERYWHERE + others:
        text = write(cell, dialect)
        assert text == text.strip()
        assert read(text, dialect) == read(text) == cell


@pytest.mark.parametrize(("cell", "reason"), NO_PLACE)
def test_refusals_name_the_place_and_the_reason(cell: Genotype, reason: str) -> None:
    with pytest.raises(GenotypeError) as caught:
        write(cell, "mmrazor")
    one_line(caught.value, reason, "; write it as original, pt.darts or json.")


def refusal(text: str, dialect: str) -> str:
    with pytest.raises(GenotypeError) as caught:
        read(text, dialect)
    return one_line(caught.value)


def test_nested_text_and_mmrazor_files_are_literal() -> None:
    assert write(V2, "pt.darts") == NESTED_V2
    assert FILE_9732.startswith(
        "normal_n2:\n  chosen:\n  - normal_n2_p0\n  - normal_n2_p1\n"
        "normal_n2_p0:\n  chosen:\n  - sep_conv_3x3\n"
    )
    assert write(PUBLISHED["MMRAZOR_9732"], "mmrazor") == FILE_9732
    assert read(FILE_ALIAS) == PUBLISHED["MMRAZOR_ALIAS"]
    blocks = FILE_ALIAS.replace("\nnormal", "\n\nnormal").replace("\nreduce", "\n\nreduce")
    turned = "# 97.27 % & more\n" + "\n".join(reversed(blocks.split("\n\n")))
    text = turned.replace("- max_pool_3x3", "- max_pool_3x3  # new!", 1)
    assert "new!" in text
    assert read(text) == PUBLISHED["MMRAZOR_ALIAS"]


@pytest.mark.parametrize(("text", "concat", "weight"), [
    (FLAT_V2, "range(2, 6)", ", 0.130174"),
    (NESTED_V2, "(2, 3, 4, 5)", ", 1.0"),
])  # fmt: skip
def test_a_cell_is_read_however_others_spell_it(text: str, concat: str, weight: str) -> None:
    """Of D-X-Y/AutoDL-Projects#11 and khanrc/pt.darts#44."""
    text = text.replace("[2, 3, 4, 5]", concat).replace("range(2, 6)", concat)
    text = re.sub(r"('\w+', \d)\)", rf"\1{weight})", text)
    spread = "\n  " + re.sub(r"([\[(,=])", r" \1\n\t ", text) + "  # copied from a log\n"
    for spelling in (text, spread):
        assert find_genotype(spelling) == read(spelling) == V2
        assert RetrainConfig.create(scale="laptop", genotype=spelling).genotype == FLAT_V2


def test_what_is_no_weight_is_no_pair() -> None:
    for third in ("1", "None", "'0.5'", "0.1, 0.2"):
        with pytest.raises(GenotypeError, match=r"is not a pair \('operation', source\)"):
            find_genotype(FLAT_V2.replace("'dil_conv_3x3', 2", f"'dil_conv_3x3', 2, {third}"))


@pytest.mark.parametrize("form", NNI_FORMS)
def test_nni_is_read_in_all_of_its_generations(form: str) -> None:
    for genotype in (V2, *map(random_genotype, range(5))):
        text = NNI_FORMS[form](genotype)
        assert recognise(text) == "nni"
        assert read(text) == genotype
    twice = NNI_V2.replace('"normal/input_2_1": [1]', '"normal/input_2_1": [0]')
    assert read(twice).normal[:2] == (("sep_conv_3x3", 0),) * 2


@pytest.mark.parametrize(("text", "dialect"), [
    ("\n  " + FLAT_V2.replace("[(", "[\n  ("), "original"),
    (FLAT_V2.replace("('", "['").replace("), ", "], "), "original"),
    (NESTED_V2.replace("[[(", "[\n  [\n    ("), "pt.darts"),
    ("# a comment\n\n" + FILE_ALIAS, "mmrazor"),
    ('{"normal_n2": {"chosen": ["normal_n2_p0", "normal_n2_p1"]}}', "mmrazor"),
    ('{"normal/op_2_0": "sep_conv_3x3"}', "nni"),
    (json.dumps(V2.to_dict(), indent=1), "json"),
    ("{", "json"),
])  # fmt: skip
def test_dialects_are_recognised(text: str, dialect: str) -> None:
    assert recognise(text) == dialect


def test_what_is_no_dialect_is_refused_with_their_names() -> None:
    for text in ("", "DARTS_V2", "[1, 2]", "import os", "\0"):
        assert re.match("line 1: .*original, pt.darts, mmrazor, nni, json", refusal(text, ""))
    assert "'nnni'; use one of original" in refusal(FLAT_V2, "nnni")
    with pytest.raises(GenotypeError, match="'nnni'; use one of original"):
        write(V2, "nnni")


@pytest.mark.parametrize(("text", "old", "new", "message"), [
    (FLAT_V2, "2, 3, 4, 5]", "2, 3", "original: .*line 1"),
    (FLAT_V2, "'dil_conv_3x3', 2", "'dil_conv', 2", "original: normal, node 5: .*'dil_conv'"),
    (FLAT_V2, " reduce=", " normal_concat=[2], reduce=", "'normal_concat' is there more than once"),
    *((FLAT_V2, "[2, 3, 4, 5]", f"range({given})", "'normal_concat' at line 1, column")
      for given in ("2, 6, 1", "2, stop=6", "6")),
    (NESTED_V2, ", ('dil_conv_3x3', 2)]", "]", "pt.darts: normal, node 5 .*two pairs"),
    (NESTED_V2, "('dil_conv_3x3', 2)", "foo", "pt.darts: .*'normal' at line 1, column"),
    (NESTED_V2, "('dil_conv_3x3', 2)", "7", "pt.darts: normal: 7 is not a pair"),
    (FILE_9732, "normal_n3:\n  chosen", "normal_n3:\n  chose", "'normal_n3' holds .*'chose'"),
    (FILE_9732, "  - normal_n3_p1\n", "", r"normal_n3 chooses \['normal_n3_p0'\]; .*two diff"),
    (FILE_9732, "- normal_n3_p1", "- normal_n3_p0", "normal_n3 chooses .*two diff"),
    (FILE_9732, "- sep_conv_5x5", "- conv", "normal, node 3: unknown operation 'conv'"),
    (FILE_9732, "- sep_conv_5x5", "- none", "normal, node 3: .*'none'.* never part"),
    (FILE_9732, "- sep_conv_5x5", "- 5", "normal: .5, 1. is not a pair"),
    (FILE_9732, "  - sep_conv_5x5\n", "", "'normal_n3_p1' holds .*write `chosen:` and a list"),
    (FILE_9732, "normal_n3_p1:", "normal_n3_p2:", "are there: normal_n3_p0, normal_n3_p2"),
    (FILE_9732, "normal_n3:", "normal_n6:", "normal_n3 chooses nothing"),
    (FILE_9732, "normal_n3_p1:", "normal_3:", "unknown field 'normal_3'; .*normal_n2_p0"),
    (FILE_9732, "- sep_conv_5x5", "- 'sep", "mmrazor: line 20: found unexpected end"),
    (FILE_9732, "- sep_conv_5x5", "- \a", "mmrazor: line 1 or later: ReaderError"),
    (FILE_9732, "- sep_conv_5x5", "- &a b", "mmrazor: line 20: .* no place here"),
    (FILE_9732, "- sep_conv_5x5", "- ['a #', !a b]", "mmrazor: line 20: .* no place here"),
    (FILE_9732, "- sep_conv_5x5", "- 2020-99-99", "mmrazor: line 1 or later: ValueError"),
    *((text, "", "", "mmrazor: .*'normal_n2' is there more than once, or") for text in (
        "normal_n2: {chosen: [a, b], chosen: [c, d]}",
        "normal_n2: {chosen: [a]}\n'normal_n2': {chosen: [b]}",
        "normal_n2: {chosen: [a]}\n? normal_n2\n: {chosen: [b]}",
    )),
    (NNI_V2, "{", '{"normal/op_6_0": 1,', "unknown field 'normal/op_6_0'"),
    (NNI_V2, '"normal/op_3_0": "sep_conv_3x3",\n', "", "field normal/op_3_0 is missing"),
    (NNI_V2, "dil_conv_3x3", "none", "normal, node 5: unknown operation 'none'"),
    (NNI_V2, "[2]", "[0, 1]", "normal: .'dil_conv_3x3', .0, 1.. is not a pair"),
    (NNI_V2, "[2]", "true", "normal: .* True. is not a pair"),
    (NNI_V2, "normal/op_3_0", "normal/op_2_0", "'normal/op_2_0' is there more than once"),
    (NNI_V2, ": [2],", " [2],", "nni: line 17: Expecting ':'"),
    *((text, "", "", "^nni: (field |unknown field )?'?normal_n2") for text in (  # of older NNI
        '{"normal_n2_p0": "maxpool"}',
        '{"normal_n2_switch": [0, true], "normal_n2_p0": 1}',
        '{"normal_n2_switch": {"a": 1}}',
        '{"normal_n2": ["normal_n2_p0", "normal_n2_p1"]}',
    )),
    (JSON_V2, "{", "[", "json: line 1: "),
    (JSON_V2, "0", "9" * 5000, "json: line 1 or later: Exceeds the limit"),
    (JSON_V2, "{", "[" * 5000, "json: line 1 or later: maximum recursion"),
])  # fmt: skip
def test_malformed_texts_name_the_place(text: str, old: str, new: str, message: str) -> None:
    dialect = recognise(text)
    assert old in text
    assert re.search(message, refusal(text.replace(old, new, 1), dialect))


def test_yaml_is_plain_data_even_if_a_tag_slips_through(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.delattr(dialect_texts._PlainLoader, "compose_node")
    mark = tmp_path / "hostile"
    message = refusal(f"a: 1\nb: !!python/object/apply:os.system ['touch {mark}']", "mmrazor")
    assert "line 2: could not determine a constructor" in message
    assert not mark.exists()


def test_command_line_converts(tmp_path: Path, capsys: Printed) -> None:
    file = tmp_path / "cell"
    for source in TEXTS:
        file.write_text(TEXTS[source] + "\n", encoding="utf-8-sig")
        for target in WRITTEN:
            for options in ([], ["--from", source]):
                main(["convert", str(file), *options, "--to", target])
                assert capsys.readouterr().out == TEXTS[target] + "\n"
    (tmp_path / "genotype.json").write_text(JSON_V2)
    main(["convert", str(tmp_path), "--to", "mmrazor"])
    assert capsys.readouterr().out == TEXTS["mmrazor"] + "\n"


@pytest.mark.parametrize(("cell", "options", "words"), [
    (b"normal_n2:\n  chosen:\n  - 'a", "--to json", "two lines: mmrazor: line "),
    (b"\xff\xfe\xff", "--to json", "is not UTF-8"),
    (b"hello", "--to json", "two lines: line 1: 'hello' is the start of no known dialect"),
    (JSON_V2.encode(), "--to json --from mmrazor", "two lines: mmrazor: 'normal' "),
    ("NASNet", "--to mmrazor", "mmrazor has no sep_conv_7x7"),
    ("DARTS_V2", "--to nni", "nni is read but not written; use one of original, pt.darts, mmrazor"),
])  # fmt: skip
def test_command_line_refuses_in_one_line(
    cell: str | bytes, options: str, words: str, tmp_path: Path, monkeypatch: Patch, capsys: Printed
) -> None:
    if isinstance(cell, bytes):
        (tmp_path / "a cell\u2028of two lines").write_bytes(cell)
        cell = f"{tmp_path}/a cell\u2028of two lines"
    monkeypatch.setattr(sys, "argv", ["dialects", "convert", cell, *options.split()])
    with pytest.raises(SystemExit) as stopped:
        run_command(main)
    printed = capsys.readouterr()
    assert (stopped.value.code, printed.out, len(printed.err.splitlines())) == (2, "", 1)
    assert words in printed.err


def test_command_line_as_a_module(tmp_path: Path) -> None:
    file = tmp_path / "cell.yaml"
    file.write_text(FILE_ALIAS)
    command = [sys.executable, "-m", "darts_lib.dialects", "convert", str(file), "--to", "original"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == (str(PUBLISHED["MMRAZOR_ALIAS"]), "")
