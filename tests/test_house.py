"""The rules of CONTRIBUTING.md that linters do not check."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from synth import registry

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "synth").rglob("*.py"))
LONGEST = 500
SHORTEST = 60
VAGUE = {"utils.py", "util.py", "common.py", "helpers.py", "misc.py"}
UNSAFE = {
    "eval": re.compile(r"(?<![\w.\"'`])(?:eval|exec)\("),
    "pickle": re.compile(r"^\s*(?:import|from) (?:pickle|dill|joblib|marshal|shelve)\b", re.MULTILINE),
    "yaml.load": re.compile(r"\byaml\.(?:load|full_load|unsafe_load)\("),
    "trust_remote_code": re.compile(r"trust_remote_code\s*[=:]\s*True"),
    "shell": re.compile(r"\bshell\s*=\s*True|\bos\.system\("),
}
ADAPTERS = ("synth/llm/", "synth/embed/", "synth/servers/", "synth/training/", "synth/prompts/templates.py")
"""The last adapts Jinja2, which hands on the arguments of every call."""

PLUGINS = ("llm", "embed", "rerank", "tasks", "scores", "negatives", "exports")
OTHER_TESTS = {"contract", "faults", "trainers", "vllm"}
WHOLE = {"canary", "configs", "house", "packaging", "plain_english", "plugins_page", "reliability_page", "security"}
"""Folders of tests that belong to no package."""

TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in MODULES}


@pytest.fixture(scope="module", name="trees")
def parsed_modules():
    return {name: ast.parse(text) for name, text in TEXTS.items()}


def test_every_module_has_room_left():
    assert {name: lines for name, text in TEXTS.items() if (lines := len(text.splitlines())) > LONGEST} == {}


def test_a_short_module_is_a_plugin_or_a_command_or_used_by_several(trees):
    short = {name for name, text in TEXTS.items() if len(text.splitlines()) < SHORTEST and not is_entry(name)}
    users = Counter(each for tree in trees.values() for each in imported(tree))
    assert [name for name in sorted(short) if users[dotted(name)] < 2] == []


def test_folders_of_tests_mirror_the_packages():
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/*.py")}
    assert folders - OTHER_TESTS <= {Path(name).parent.name for name in TEXTS}
    files = {path.stem.removeprefix("test_") for path in (ROOT / "tests").glob("test_*.py")}
    assert files - WHOLE <= {path.stem for path in (ROOT / "synth").glob("*.py")}


def test_every_module_is_named_after_its_subject():
    assert [name for name in TEXTS if Path(name).name in VAGUE] == []


def test_nothing_is_evaluated_unpickled_or_trusted():
    found = [(name, rule) for name, text in TEXTS.items() for rule, pattern in UNSAFE.items() if pattern.search(text)]
    assert found == []


def test_everything_public_says_what_it_is(trees):
    assert [name for name, tree in trees.items() if TEXTS[name] and not ast.get_docstring(tree)] == []
    assert [
        f"{n}: {node.name}" for n, tree in trees.items() for node in public(tree) if not ast.get_docstring(node)
    ] == []


def test_only_adapters_take_further_arguments_unseen(trees):
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    functions = ((name, node) for name, tree in trees.items() for node in ast.walk(tree) if isinstance(node, kinds))
    offenders = [f"{name}: {node.name}" for name, node in functions if node.args.kwarg is not None]
    python_api = ("synth/api.py", "synth/models.py")
    assert [each for each in offenders if not each.startswith((*ADAPTERS, *python_api))] == []


@pytest.mark.parametrize("kind", PLUGINS)
def test_plugins_never_import_one_another(kind):
    plugins = {f"synth.{kind}.{name}" for name in registry.names(kind)}
    for name in sorted(plugins):
        path = ROOT.joinpath(*name.split(".")).with_suffix(".py")
        found = imported(ast.parse(path.read_text(encoding="utf-8")))
        assert not (plugins - {name}) & found, name


@pytest.mark.parametrize("kind", PLUGINS)
def test_every_option_of_a_stage_is_explained_or_explains_itself(kind):
    """A stage's docstring is its help in `synth list`."""
    for name in registry.names(kind):
        assert registry.find(kind, name).__doc__, name


def test_an_ignored_finding_carries_its_reason():
    bare = re.compile(r"#\s*(?:noqa(?::\s*[A-Z0-9, ]+)?|type:\s*ignore(?:\[[\w-]+\])?|fmt: \w+)\s*$")
    files = [*MODULES, *sorted((ROOT / "tests").rglob("*.py"))]
    lines = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if bare.search(line) and "fmt:" not in line
    ]
    assert lines == []


def test_constraints_are_plain_pins():
    for name in ("constraints.txt", "tests/vllm/requirements.txt"):
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        pins = [line for line in lines if line and not line.startswith("#")]
        assert [pin for pin in pins if not re.fullmatch(r'[\w.-]+==[\w.]+(?:; platform_machine == "\w+")?', pin)] == []


def is_entry(name):
    """Whether a module is found by its name: a package, a plugin or a command."""
    kind, file = Path(name).parent.name, Path(name).name
    return file.startswith("__") or (kind in {*PLUGINS, "cli"} and not file.startswith("_"))


def dotted(name):
    return name.removesuffix(".py").replace("/", ".")


def public(tree):
    """Public classes, and longer public functions and methods, except methods of a Protocol."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if not any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases):
                yield from (method for method in functions_of(node) if not is_property_or_short(method))
    yield from (function for function in functions_of(tree) if not is_property_or_short(function))


def functions_of(node):
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return [each for each in node.body if isinstance(each, kinds) and not each.name.startswith("_")]


def is_property_or_short(method):
    """A property, or a function of one or two statements: name and types say enough."""
    return len(method.body) <= 2 or any(isinstance(d, ast.Name) and d.id == "property" for d in method.decorator_list)


def imported(tree):
    """Dotted names of all modules that a module imports, wherever in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names
