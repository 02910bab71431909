"""Size and grain of the package: `python benchmarks/house.py [FOLDER]`.

A private function counts as called once when its own module names it exactly once outside its definition.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from pathlib import Path
from statistics import mean, median

Function = ast.FunctionDef | ast.AsyncFunctionDef


def measure(package: Path) -> dict[str, float]:
    """Figures of all modules below `package`."""
    lines, lengths, once = [], [], 0
    for path in sorted(package.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        lines.append(len(text.splitlines()))
        functions = [node for node in ast.walk(tree) if isinstance(node, Function)]
        lengths += [(node.end_lineno or node.lineno) - node.lineno + 1 for node in functions]
        uses = Counter(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
        uses.update(node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute))
        once += sum(
            node.name.startswith("_") and not node.name.endswith("__") and uses[node.name] == 1 for node in functions
        )
    return {
        "modules": len(lines),
        "lines": sum(lines),
        "median lines of a module": median(lines),
        "mean lines of a function": round(mean(lengths), 1),
        "functions": len(lengths),
        "private functions called once, % of all": round(100 * once / len(lengths), 1),
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "synth"
    for name, value in measure(folder).items():
        print(f"{name:40} {value:>10,}")
