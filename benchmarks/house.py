"""Size and grain of the package: `python benchmarks/house.py [FOLDER]`.

A private function counts as called once when the package names it exactly once, apart from its definition.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from pathlib import Path
from statistics import mean, median

Function = ast.FunctionDef | ast.AsyncFunctionDef
Named = ast.Name | ast.Attribute


def measure(package: Path) -> dict[str, float]:
    """Figures of all modules below `package`."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(package.rglob("*.py"))]
    nodes = [node for text in texts for node in ast.walk(ast.parse(text))]
    functions = [node for node in nodes if isinstance(node, Function)]
    lines = [len(text.splitlines()) for text in texts]
    lengths = [(node.end_lineno or node.lineno) - node.lineno + 1 for node in functions]
    uses = Counter(node.id if isinstance(node, ast.Name) else node.attr for node in nodes if isinstance(node, Named))
    private = [node.name for node in functions if node.name.startswith("_") and not node.name.endswith("__")]
    once = sum(uses[name] == 1 for name in private)
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
