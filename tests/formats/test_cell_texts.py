"""A cell is found in any text: whatever stands around it, whatever it is called; or refused."""

import html
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from cell_texts import NNI_FORMS
from fuzz_tools import Printed, one_line

from darts_lib.derivation import derive, random_genotype
from darts_lib.formats.cell_choice import find_genotype
from darts_lib.formats.dialect_tables import OPERATIONS
from darts_lib.formats.dialects import read, write
from darts_lib.genotype import PUBLISHED, Genotype, GenotypeError
from darts_lib.recurrent import genotype as recurrent
from darts_lib.retrain import RetrainConfig
from darts_lib.search_space import KINDS, PRIMITIVES, row_offset
from darts_lib.tools.dialects import main

V1, V2 = PUBLISHED["DARTS_V1"], PUBLISHED["DARTS_V2"]
FLAT, SPAN = str(V2), str(V2).replace("[2, 3, 4, 5]", "range(2, 6)")
PLACES = f"{list(V2.normal)}, [2, 3, 4, 5], {list(V2.reduce)}, [2, 3, 4, 5]"
LOG = "".join(
    f"2026-01-02 03:04:0{epoch},005 epoch {epoch} lr 2.5e-02 (it's {epoch}\n"
    f"2026-01-02 03:04:0{epoch},006 genotype = {cell}\ntensor([[0.1, 0.2]], device='cuda:0')\n"
    for epoch, cell in enumerate([V1, random_genotype(0), SPAN])
)
CHOICES = yaml.safe_load(write(V2, "mmrazor"))
ROWS = [{"epoch": 1, "genotype": str(V1)}, {"epoch": 2, "genotype": FLAT}]
BLOCK = "cell:\n" + "".join(
    f"  {kind}:\n"
    + "".join(f"  - !!python/tuple\n    - {name}\n    - {source}\n" for name, source in pairs)
    + f"  {kind}_concat: [2, 3, 4, 5]\n"
    for kind, pairs in V2.cells().items()
)


def fair(cell: Genotype, dropped: int = 0) -> str:
    """Write a cell as FairDARTS does, (operation, node, source), the last node first."""
    parts = []
    for kind, pairs in cell.cells().items():
        triples = [(name, i // 2 + 2, source) for i, (name, source) in enumerate(pairs)][dropped:]
        parts.append(f"{kind}={sorted(triples, key=lambda triple: -triple[1])}")
        parts.append(f"{kind}_concat=range(2, 6)")
    return f"Genotype({', '.join(parts)})"


def numbers(cell: Genotype, names: tuple[str, ...]) -> str:
    return str(tuple(tuple((s, names.index(o)) for o, s in p) for p in cell.cells().values()))


def settings(cell: Genotype, prefix: str) -> dict[str, object]:
    """Write a cell as NAS-Bench-301 does: edges by row of the alphas, sources from node 3 on."""
    table: dict[str, object] = {"CreateImageDataLoader:batch_size": 96}
    for kind, node in itertools.product(KINDS, range(2, 6)):
        pairs = sorted(cell.pairs(kind)[2 * node - 4 : 2 * node - 2], key=lambda pair: pair[1])
        for name, source in pairs:
            table[f"{prefix}edge_{kind}_{row_offset(node) + source}"] = name
        if node > 2:
            table[f"{prefix}inputs_node_{kind}_{node}"] = f"{pairs[0][1]}_{pairs[1][1]}"
    return table


NB301 = "NetworkSelectorDatasetInfo:darts:"


@pytest.mark.parametrize(("text", "told"), [
    (LOG, "cell 3 of 3"),
    (LOG.splitlines()[-2], ""),
    (f"DARTS{SPAN}", ""),
    (f"epoch 1 cell: {V1}\nepoch 2 cell: {FLAT}", "cell 2 of 2"),
    (f"\x1b[32m03:04\x1b[0m \x1b[1m{FLAT}\x1b[0m", ""),
    (f"best = nas.Genotypes_7({PLACES})", ""),
    (f"{FLAT[:-1]}, connectN=None, connects=None)", "left out, since nothing is in them: connectN"),
    (f"Genotype({PLACES}, None, None)", "left out"),
    (f"Genotype = namedtuple('Genotype', 'normal')\n# old = {V1}\nA = {FLAT}\nB = A\n", ""),
    (f"def cell():\n    return Network(36, genotype={FLAT}).cuda()\n", ""),
    (f"cells=(\n  \"{FLAT}\"\n)", ""),
    (f"The cell:\n```\n{FLAT}\n```\nit's good\n", ""),
    (html.escape(FLAT).replace(", (", ",<br>("), ""),
    (FLAT.replace("'", "’").replace(", ", ",\xa0"), ""),
    ("\ufeff" + FLAT.replace(", ", ",\r\n"), ""),
    ("> " + FLAT.replace(", (", ",\n> ("), ""),
    ("The cell " + FLAT.replace("dil_conv", "dil_\n  conv") + " (pasted", ""),
    (FLAT.replace(")]", "),]").replace("])", "],)").replace(", ('s", ",  # (a\n ('s"), ""),
    (FLAT.replace(", 0)", ", np.int64(0))"), ""),
    (f"a:\n  b:\n    arch: {SPAN}".replace(", (", ",\n      ("), ""),
    (BLOCK, ""),
    (json.dumps({"x": [{"arch": V2.to_dict()}], "accuracy": 97.2}), ""),
    (json.dumps(ROWS), "cell 2 of 2"),
    ("\n".join(map(json.dumps, ROWS)), "cell 2 of 2"),
    (json.dumps({"best": FLAT.replace("'", '"')}), ""),
    (repr({"net": {"cell": vars(V2)}}), ""),
    (f"OrderedDict({[*vars(V2).items()]})", ""),
    (FLAT.replace("_", r"\_"), ""),
    (f"arch = {json.loads(NNI_FORMS['3.0'](V2))}", ""),
    (yaml.safe_dump({"a": {"b": CHOICES}}), ""),
    ("{  # ours\n" + json.dumps(V2.to_dict())[1:-1] + ",\n}", ""),
    ("".join(f"{key}: {json.dumps(value)}\n" for key, value in CHOICES.items()), ""),
    (f"normal = [(1, 2)]\nreduce = normal\nbest: Cell = {FLAT}\n", ""),
    (fair(V2), ""),
    (f"key: {numbers(V2, OPERATIONS)}", ""),
])  # fmt: skip
def test_a_cell_is_found_whatever_stands_around_it(text: str, told: str, capsys: Printed) -> None:
    assert read(text) == V2
    assert (told in capsys.readouterr().err) if told else capsys.readouterr().err == ""


TWO = f"V1 = {V1}\nV2 = {V2}\nDARTS = V2\n"
TREE = json.dumps({"s1": {"0.3": [str(V1), str(V2)]}, "s2": {"0.3": str(V2)}})


def test_one_of_several_cells_is_named(tmp_path: Path) -> None:
    for text, names in ((TWO, "V2 v2 DARTS 2"), (TREE, "s1/0.3/2 s2/0.3 3"), (LOG, "genotype 3")):
        (tmp_path / "f.txt").write_text(text, encoding="utf-16")
        for name in names.split():
            assert find_genotype(f"{tmp_path}/f.txt:{name}") == read(text, name=name) == V2
    assert read(LOG, name="1") == V1
    given = RetrainConfig.create(scale="laptop", genotype=f"{tmp_path}/f.txt")
    assert given.genotype == FLAT
    rows = "".join(f"genotype = {cell}\n" for cell in recurrent.PUBLISHED.values())
    assert recurrent.find_genotype(f"epoch 1\n{rows}") == recurrent.PUBLISHED["DARTS_V2"]
    assert find_genotype("darts_v2") == V2


def test_numbers_are_read_in_the_one_order_that_they_can_have() -> None:
    for seed in range(20):
        cell = random_genotype(seed)
        kinds = {name for pairs in cell.cells().values() for name, _ in pairs}
        for names, dialect, sure in (
            (OPERATIONS, "naslib", "max_pool_3x3"), (PRIMITIVES, "bananas", "dil_conv_5x5")
        ):  # fmt: skip
            text = numbers(cell, names)
            assert read(text, dialect) == cell
            if sure in kinds:
                assert read(text) == cell
        # The sources of a node come in their order there; those of a random cell do too.
        for table in (settings(cell, NB301), {"a_edge_normal_13": None} | settings(cell, "a_")):
            for text in (json.dumps(table), f"config = {table}"):
                assert read(text) == cell


@pytest.mark.parametrize(("text", "words"), [
    (TWO, "it holds several cells, V1, V2, DARTS; name one, as FILE:V1 or --name V1"),
    (f"{V1}\n{V2}\n", "it holds several cells, 1, 2"),
    (f"a: {V1}\nb/c: {V2}\nb/c: {V1}\n", "it holds several cells, a, b/c, b/c"),
    (f'{{"a": "{V1}", "b": "{V2}", "b": "{V1}"}}', "b is there more than once, or a name in it"),
    (f'a,genotype\n1,"{V1}"\n2,"{V2}"\n', "it holds several cells, 1, 2"),
    (TREE, "s1/0.3/1, s1/0.3/2, s2/0.3"),
    (fair(V2).replace(", 2, ", ", 1, "), "normal, node 1 has [['sep_conv_3x3', 0], ["),
    (fair(V2, dropped=1), "normal, node 2 has [['sep_conv_3x3', 1]]; all"),
    (f"{FLAT[:-1]}, connectN=4)", "missing or unknown: ['connectN']"),
    ("|nor_conv_3x3~0|+|none~0|skip_connect~1|", "a cell of NAS-Bench-201, another space"),
    (FLAT.replace("dil_conv_3x3", "noise"), "'noise'; it is one of RobustDARTS's space S4"),
    (FLAT.replace("dil_conv_3x3", "conv_3x1_1x3"), "'conv_3x1_1x3'; it is one of NASNet's space"),
    (numbers(V2, OPERATIONS).replace(", 0)", ", 1)"), "say --from naslib or --from bananas"),
    (numbers(V2, OPERATIONS).replace(", 3)", ", 9)"), "operation 9 is none of 0 to 6"),
    (json.dumps(settings(V2, NB301)).replace('"0_1"', '"0_4"', 1), "normal_n3 chooses"),
    (FLAT.replace("2, 3,", "2, 3, *x,"), "'normal_concat' at line 1, column"),
    ("Genotype(normal=a, normal_concat=b, reduce=c, reduce_concat=b)", "'normal' at line 1"),
    ("a = 1\n" * 200_000, "the text has more than 1000000 characters"),
])  # fmt: skip
def test_what_is_no_cell_or_not_the_only_one_is_refused(text: str, words: str) -> None:
    with pytest.raises(GenotypeError) as caught:
        read(text)
    one_line(caught.value, words)
    with pytest.raises(
        GenotypeError, match="no cell in it is called 'V3'; there are V1, V2, DARTS"
    ):
        read(TWO, name="V3")


def test_alphas_of_any_kind_give_a_cell(tmp_path: Path, capsys: Printed) -> None:
    rows = torch.randn(14, 8, generator=torch.Generator().manual_seed(1))
    cell = derive(dict.fromkeys(KINDS, rows))
    nodes = torch.split(rows, [2, 3, 4, 5])
    forms = (rows.numpy(), rows.tolist(), list(nodes), [node.tolist() for node in nodes],
             np.array([*(node.numpy() for node in nodes), None], dtype=object)[:-1],
             [*rows], torch.nn.Parameter(rows))  # fmt: skip
    for form in forms:
        assert derive(dict.fromkeys(KINDS, form)) == cell
    epochs = np.stack([0 * rows.numpy(), rows.numpy()])
    np.savez(tmp_path / "alphas.npz", normal=epochs, reduce=epochs)
    text = json.dumps({f"alphas_{kind}": [node.tolist() for node in nodes] for kind in KINDS})
    (tmp_path / "alphas.json").write_text(text)
    for file, told in (("", "table 2 of 2"), ("alphas.npz", "table 2 of 2"), ("alphas.json", "")):
        main(["derive", str(tmp_path / file)])
        printed = capsys.readouterr()
        assert (printed.out, told in printed.err) == (f"{cell}\n", True)
    for alphas, words in (
        ([rows, rows], "alphas lack 'normal', they are []; name normal and reduce"),
        ({"normal": rows}, "alphas lack 'reduce', they are ['normal']"),
        ({"normal": rows, "reduce": "rows"}, "alphas of reduce are no table"),
        ({"normal": rows, "reduce": [[0.1], [0.1, 0.2]]}, "alphas of reduce are no table"),
        ({"normal": rows, "reduce": rows[0]}, "alphas of reduce have shape (8,)"),
        ({"normal": rows, "reduce": rows[:, :7]}, "alphas have 7 columns for 8 names"),
    ):
        with pytest.raises(GenotypeError) as caught:
            derive(alphas)
        one_line(caught.value, words)
    np.save(file := tmp_path / "array.npy", rows)
    twice = '{"normal": [[1]], "alphas_normal": [[2]], "reduce": [[1]]}'
    for name, content in (
        ("a.json", b"{"),
        ("a.json", twice.encode()),
        ("a.npz", b""),
        ("a.npz", file.read_bytes()),
        ("a.pt", b""),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(GenotypeError) as caught:
            main(["derive", str(tmp_path / name)])
        one_line(caught.value, name)
