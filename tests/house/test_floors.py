"""The floors of the house: imports go down, one backend, no hidden randomness, no swollen files."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "neurosde"
SOURCES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in SOURCES]
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in zip(NAMES, SOURCES, strict=True)}

HIGH_FLOORS = ("io", "datasets", "estimators", "tl", "pl", "testing", "cli", "demo", "reports", "__main__")


def module_of(name: str) -> str:
    """The top-level module that a file belongs to: neurosde/solve/steppers.py -> solve."""
    return Path(name).parts[1].removesuffix(".py")


def imports(tree: ast.AST) -> list[tuple[ast.stmt, str]]:
    """Every import statement with the module it names (relative imports keep their dots)."""
    found: list[tuple[ast.stmt, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node, "." * node.level + (node.module or "")))
    return found


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def inside_functions(tree: ast.AST) -> set[ast.AST]:
    return {inner for function in functions(tree) for inner in ast.walk(function)}


def dotted(node: ast.expr) -> str:
    """'torch.nn.init' for the attribute chain of that name, '' for anything else."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def calls(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def report(offences: list[str]) -> None:
    assert not offences, "\n" + "\n".join(offences)


@pytest.fixture(params=NAMES)
def source(request) -> tuple[str, ast.Module]:
    return request.param, TREES[request.param]


def test_import_contracts_hold():
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command as run; run()",
            "--no-cache",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_lists_of_the_contracts_leave_no_module_out():
    layers, tables, transport = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "importlinter"
    ]["contracts"]
    floors = [re.split(r" [:|] ", layer) for layer in layers["layers"]]
    modules = {f"neurosde.{name}" for floor in floors for name in floor}
    low = {name for name in modules if name.removeprefix("neurosde.") not in HIGH_FLOORS}
    assert set(tables["source_modules"]) == low
    assert set(transport["source_modules"]) == modules - {"neurosde.scores", "neurosde.bridge"}


def test_nobody_imports_the_package_from_its_own_front_door(source):
    """`from neurosde import Series` inside the package would hide an upward import behind a lazy name."""
    name, tree = source
    modules = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    report(
        [
            f"{name}:{node.lineno}: import {alias.name} from the module that defines it"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "neurosde" and not node.level
            for alias in node.names
            if alias.name not in modules | {"__version__"}
        ]
    )


ALWAYS_LAZY = {"anndata", "matplotlib", "scanpy", "xarray", "ot"}
LAZY_BELOW_SEVEN = ALWAYS_LAZY | {"joblib", "pandas", "scipy", "sklearn", "torchcde", "torchsde", "tqdm"}


def test_heavy_libraries_are_imported_inside_functions(source):
    name, tree = source
    forbidden = ALWAYS_LAZY if module_of(name) in HIGH_FLOORS else LAZY_BELOW_SEVEN
    lazy = inside_functions(tree)
    report(
        [
            f"{name}:{node.lineno}: import {module} inside the function that needs it"
            for node, module in imports(tree)
            if module.split(".")[0] in forbidden and node not in lazy
        ]
    )


def test_no_future_annotations(source):
    """They turn shape annotations into strings, which the shape checks of the tests cannot read."""
    name, tree = source
    report([f"{name}:{node.lineno}" for node, module in imports(tree) if module == "__future__"])


def test_module_names_say_what_is_inside(source):
    name, _ = source
    banned = {"utils", "util", "helpers", "helper", "common", "core", "misc"}
    assert not banned & set(Path(name).with_suffix("").parts)


def test_files_and_functions_stay_readable(source):
    name, tree = source
    lines = len((ROOT / name).read_text(encoding="utf-8").splitlines())
    long = [
        f"{name}:{f.lineno}: {f.name} has {f.end_lineno - f.lineno + 1} lines (80 at most)"
        for f in functions(tree)
        if f.end_lineno is not None and f.end_lineno - f.lineno + 1 > 80
    ]
    report(long + ([f"{name} has {lines} lines (600 at most)"] if lines > 600 else []))


# Fixed by their users: `solve` is the one call with every choice, sdeint has torchsde's own signature.
AGREED_SIGNATURES = {"solve", "sdeint", "sdeint_adjoint"}


def test_public_calls_take_at_most_ten_arguments(source):
    """An estimator's constructor may take more: its arguments are its hyper-parameters."""
    name, tree = source
    offences = []
    for function in functions(tree):
        constructor = function.name == "__init__" and module_of(name) == "estimators"
        agreed = function.name in AGREED_SIGNATURES and module_of(name) == "solve"
        if constructor or agreed or (function.name.startswith("_") and function.name != "__init__"):
            continue
        a = function.args
        arguments = [
            arg.arg for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs) if arg.arg not in ("self", "cls")
        ]
        if len(arguments) > 10:
            offences.append(f"{name}:{function.lineno}: {function.name} takes {len(arguments)} arguments")
    report(offences)


GLOBAL_RANDOM = {
    "torch.manual_seed",
    "torch.seed",
    "torch.random.manual_seed",
    "torch.random.fork_rng",
    "random.seed",
}
GLOBAL_SETTING = {
    "torch.set_default_dtype",
    "torch.set_default_device",
    "torch.set_grad_enabled",
    "torch.set_num_threads",
}
NEEDS_GENERATOR = {
    *(
        f"torch.{draw}"
        for draw in ("rand", "randn", "randint", "randperm", "normal", "multinomial", "bernoulli", "poisson")
    ),
    *(f"torch.nn.init.{init}_" for init in ("uniform", "normal", "trunc_normal", "orthogonal")),
    *(f"torch.nn.init.{init}_{law}_" for init in ("xavier", "kaiming") for law in ("uniform", "normal")),
}
NEVER = {f"torch.{draw}_like" for draw in ("rand", "randn", "randint")}
IN_PLACE = {
    "normal_",
    "uniform_",
    "bernoulli_",
    "exponential_",
    "random_",
    "log_normal_",
    "cauchy_",
    "geometric_",
}
NUMPY_ALLOWED = {"default_rng", "Generator", "SeedSequence", "RandomState", "PCG64", "Philox", "BitGenerator"}


def _is_setting_statement(tree: ast.AST, call: ast.Call) -> bool:
    """`with torch.set_grad_enabled(flag):` restores what it found; the bare statement does not."""
    return not any(
        isinstance(node, ast.With) and any(item.context_expr is call for item in node.items)
        for node in ast.walk(tree)
    )


def test_randomness_comes_from_a_generator_or_the_keyed_noise(source):
    name, tree = source
    offences = []
    for call in calls(tree):
        chain = dotted(call.func)
        for short, full in (("nn.", "torch.nn."), ("np.", "numpy."), ("init.", "torch.nn.init.")):
            chain = full + chain.removeprefix(short) if chain.startswith(short) else chain
        keywords = {keyword.arg for keyword in call.keywords}
        method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        if chain in GLOBAL_RANDOM | NEVER:
            offences.append(f"{name}:{call.lineno}: {chain} uses the global random state")
        elif chain in NEEDS_GENERATOR | {f"torch.{m}" for m in IN_PLACE} and "generator" not in keywords:
            offences.append(f"{name}:{call.lineno}: {chain} without generator=")
        elif method in IN_PLACE and not chain.startswith("torch.nn.init.") and "generator" not in keywords:
            offences.append(f"{name}:{call.lineno}: .{method}() without generator=")
        elif chain.startswith("numpy.random.") and chain.split(".")[2] not in NUMPY_ALLOWED:
            offences.append(f"{name}:{call.lineno}: {chain} uses numpy's global random state")
        elif chain == "numpy.random.default_rng" and not call.args:
            offences.append(f"{name}:{call.lineno}: default_rng() without a seed")
        elif chain in GLOBAL_SETTING and _is_setting_statement(tree, call):
            offences.append(f"{name}:{call.lineno}: {chain} changes a process-wide setting")
    report(offences)


def names_in(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def carried_by(loop: ast.AST) -> set[str]:
    """Stepping looks like a field evaluated, in a loop, at a state that the loop itself carries along."""
    carried: set[str] = set()
    for node in ast.walk(loop):
        if isinstance(node, ast.AugAssign):
            carried |= names_in(node.target)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Subscript):
                    carried |= names_in(target.value)
                else:
                    carried |= names_in(target) & names_in(node.value)
        elif (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "append"
        ):
            carried |= names_in(node.func.value)
    return carried


def test_only_the_backend_steps_through_time(source):
    """Stepping looks like a field evaluated, in a loop, at a state which the loop itself carries along."""
    name, tree = source
    if module_of(name) == "solve":
        return
    fields = {"drift", "diffusion", "drift_and_diffusion", "f", "g", "f_and_g"}
    report(
        [
            f"{name}:{call.lineno}: .{call.func.attr}() along a loop: time stepping belongs in neurosde/solve"
            for loop in ast.walk(tree)
            if isinstance(loop, ast.For | ast.While)
            for call in calls(loop)
            if isinstance(call.func, ast.Attribute) and call.func.attr in fields
            if set.union(set(), *map(names_in, call.args)) & carried_by(loop)
        ]
    )


def test_nobody_probes_with_hasattr(source):
    name, tree = source
    report([f"{name}:{c.lineno}: hasattr" for c in calls(tree) if dotted(c.func) == "hasattr"])


def test_the_catalogue_is_not_a_package():
    assert not (ROOT / "datasets" / "__init__.py").exists(), "it would shadow Hugging Face's datasets"


class TestTheChecksThemselves:
    """A check that lets a planted offence through is worth nothing."""

    @pytest.mark.parametrize(
        "line",
        [
            "import torch\nx = torch.randn(3)",
            "import torch\ntorch.manual_seed(0)",
            "import numpy as np\nx = np.random.normal(size=3)",
            "import numpy as np\nrng = np.random.default_rng()",
            "import torch\ntorch.set_default_dtype(torch.float64)",
            "from torch import nn\nnn.init.xavier_uniform_(w)",
            "x.normal_()",
            "import torch\ny = torch.randn_like(x)",
        ],
    )
    def test_hidden_randomness_is_seen(self, line):
        with pytest.raises(AssertionError):
            test_randomness_comes_from_a_generator_or_the_keyed_noise(
                ("neurosde/planted.py", ast.parse(line))
            )

    @pytest.mark.parametrize(
        "line",
        [
            "import torch\nx = torch.randn(3, generator=g)",
            "import numpy as np\nrng = np.random.default_rng(seed)",
            "with torch.set_grad_enabled(flag):\n    pass",
            "x.normal_(generator=g)",
        ],
    )
    def test_seeded_randomness_is_allowed(self, line):
        test_randomness_comes_from_a_generator_or_the_keyed_noise(("neurosde/planted.py", ast.parse(line)))

    @pytest.mark.parametrize(
        "loop",
        [
            "for t in ts:\n    y = y + sde.drift(t, y) * dt",
            "while t < T:\n    y += sde.f(t, y) * dt\n    t = t + dt",
            "for k in range(n):\n    ys[k + 1] = ys[k] + sde.drift(ts[k], ys[k]) * dt",
            "for t in ts:\n    ys.append(ys[-1] + sde.diffusion(t, ys[-1]) * dW)",
        ],
    )
    def test_a_loop_over_steps_is_seen(self, loop):
        with pytest.raises(AssertionError):
            test_only_the_backend_steps_through_time(("neurosde/bridge/planted.py", ast.parse(loop)))
        test_only_the_backend_steps_through_time(("neurosde/solve/planted.py", ast.parse(loop)))

    def test_a_loop_over_intervals_or_chunks_is_allowed(self):
        loop = "for i in order:\n    out[rows[i]] = intervals[i].drift(t[rows[i]], x[rows[i]])"
        test_only_the_backend_steps_through_time(("neurosde/bridge/planted.py", ast.parse(loop)))

    def test_a_heavy_import_at_the_top_is_seen(self):
        with pytest.raises(AssertionError):
            test_heavy_libraries_are_imported_inside_functions(
                ("neurosde/paths.py", ast.parse("import torchcde"))
            )
        lazy = ast.parse("def f():\n    import torchcde")
        test_heavy_libraries_are_imported_inside_functions(("neurosde/paths.py", lazy))

    def test_a_long_signature_is_seen(self):
        arguments = ", ".join(f"a{i}" for i in range(11))
        with pytest.raises(AssertionError):
            test_public_calls_take_at_most_ten_arguments(
                ("neurosde/tl.py", ast.parse(f"def bridge({arguments}): ..."))
            )
