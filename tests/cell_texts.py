"""A cell as NNI writes it, in each generation: what the library reads and does not write."""

import json
from collections.abc import Callable

from darts_lib.genotype import Genotype
from darts_lib.search_space import KINDS, PRIMITIVES

OLD_NAMES = (
    *("maxpool", "avgpool", "skipconnect", "sepconv3x3", "sepconv5x5", "dilconv3x3", "dilconv5x5"),
)


def nni_hub(genotype: Genotype, source: Callable[[int], object] = lambda state: [state]) -> str:
    """Write a cell of four nodes as NNI's hub does, a line a field; `source` writes a state."""
    table: dict[str, object] = {}
    for kind in KINDS:
        for i, (name, state) in enumerate(genotype.pairs(kind)):
            table |= {f"{kind}/op_{i // 2 + 2}_{i % 2}": name}
            table |= {f"{kind}/input_{i // 2 + 2}_{i % 2}": source(state)}
    return json.dumps(table, indent=0).replace("[\n", "[").replace("\n]", "]")


def nni_examples(genotype: Genotype, numbers: bool) -> str:
    """Write a cell as NNI's older examples do: choices by number, in lists, or by name, alone."""
    table: dict[str, object] = {}
    for kind in KINDS:
        pairs = genotype.pairs(kind)
        for i in range(0, len(pairs), 2):
            stem, chosen = f"{kind}_n{i // 2 + 2}", pairs[i : i + 2]
            table |= {f"{stem}_p{source}": [] for source in range(i // 2 + 2)}
            for name, source in chosen:
                number = PRIMITIVES[1:].index(name)
                table[f"{stem}_p{source}"] = [number] if numbers else OLD_NAMES[number]
            table[f"{stem}_switch"] = [
                source if numbers else f"{stem}_p{source}" for _, source in chosen
            ]
    return json.dumps(table)


NNI_FORMS: dict[str, Callable[[Genotype], str]] = {
    "3.0": nni_hub,
    "2.x": lambda cell: json.dumps(
        {"width": 36, "depth": 20, **json.loads(nni_hub(cell, lambda state: state))}
    ),
    "examples, names": lambda cell: nni_examples(cell, numbers=False),
    "examples, numbers in lists": lambda cell: nni_examples(cell, numbers=True),
}
