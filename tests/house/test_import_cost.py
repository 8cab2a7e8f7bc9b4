"""`import neurosde` brings torch and nothing else that is slow; a timing of it stands in benchmarks/."""

import subprocess
import sys

HEAVY = (
    "anndata", "h5py", "jaxtyping", "joblib", "matplotlib", "ot", "pandas", "pooch", "scanpy", "scipy",
    "sklearn", "torchcde", "torchdiffeq", "torchsde", "tqdm", "typer", "xarray",
)  # fmt: skip


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_importing_the_package_loads_nothing_heavy():
    baseline = loaded_after("import torch")
    assert not (loaded_after("import neurosde") - baseline) & set(HEAVY)


def test_the_backend_loads_nothing_heavy():
    names = "Series, Snapshots, Trajectories, SDE, LinearSDE, BrownianPath, solve"
    extra = loaded_after(f"from neurosde import {names}") - loaded_after("import torch")
    assert not extra & (set(HEAVY) - {"jaxtyping"})


def test_every_public_name_exists():
    code = "import neurosde; [getattr(neurosde, name) for name in neurosde.__all__]"
    subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", "-c", code], check=True, capture_output=True
    )
