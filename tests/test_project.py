"""The repository itself: what is tracked, what is pinned, what the machines that check it run."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.documents import ROOT, read

LARGEST_BYTES = 5 * 2**20
GOLDEN_BYTES = 8 * 2**20
HOMES = re.compile(rb"(?<![\w./-])/(?:home|root|Users|workspace|work|mnt|scratch)/[\w.-]+")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """Every file under version control, or every file where there is no git."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    told = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    names = [name for name in told.stdout.decode().split("\0") if name]
    # A file that is deleted but not yet committed is listed as well.
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def is_text(path: Path) -> bool:
    return b"\0" not in path.read_bytes()[:8192] and path.suffix != ".safetensors"


def test_nothing_large_is_tracked_but_weights(tracked: list[Path]) -> None:
    for path in tracked:
        if not path.is_relative_to(ROOT / "models" / "weights"):
            size = path.stat().st_size
            assert size <= LARGEST_BYTES, f"{path.relative_to(ROOT)} has {size} bytes"


def test_golden_vectors_stay_small(tracked: list[Path]) -> None:
    golden = [path for path in tracked if path.is_relative_to(ROOT / "tests" / "golden")]
    assert golden
    assert sum(path.stat().st_size for path in golden) < GOLDEN_BYTES


def test_weights_are_safetensors_and_never_pickles(tracked: list[Path]) -> None:
    for path in tracked:
        assert path.suffix not in (".pt", ".pth", ".ckpt", ".pkl", ".bin"), path.relative_to(ROOT)


def test_no_file_names_a_folder_of_somebodys_machine(tracked: list[Path]) -> None:
    for path in tracked:
        if is_text(path):
            found = HOMES.findall(path.read_bytes())
            assert not found, f"{path.relative_to(ROOT)}: {found[:3]}"


def test_no_file_needs_a_folder_outside_the_repository(tracked: list[Path]) -> None:
    for path in tracked:
        if is_text(path) and path.name != Path(__file__).name:
            assert b"../" + b"shared" not in path.read_bytes(), path.relative_to(ROOT)


def test_nothing_generated_is_tracked(tracked: list[Path]) -> None:
    for path in tracked:
        parts = path.relative_to(ROOT).parts
        assert not {"__pycache__", ".venv", "data", "runs", "node_modules"} & {
            parts[0],
            *parts[:-1],
        }


def test_text_ends_with_one_newline_and_has_no_carriage_returns(tracked: list[Path]) -> None:
    for path in tracked:
        data = path.read_bytes() if is_text(path) else b""
        assert b"\r\n" not in data, path.relative_to(ROOT)
        if data and path.suffix in (".py", ".md", ".toml", ".js", ".css", ".html"):
            assert data.endswith(b"\n"), path.relative_to(ROOT)
            assert not data.endswith(b"\n\n"), path.relative_to(ROOT)


def test_what_the_program_needs_is_pinned_exactly() -> None:
    for need in PROJECT["project"]["dependencies"]:
        assert re.fullmatch(r"[\w.-]+(\[[\w,]+\])?==[\w.]+(; .+)?", need), need


def test_what_development_needs_is_pinned_exactly() -> None:
    for need in PROJECT["project"]["optional-dependencies"]["dev"]:
        assert re.fullmatch(r"[\w.-]+==[\w.]+(; .+)?", need), need


def test_torch_is_pinned_alike_in_makefile_and_pyproject() -> None:
    (pin,) = (n for n in PROJECT["project"]["dependencies"] if n.startswith("torch=="))
    assert f'"{pin}"' in (ROOT / "Makefile").read_text()


def test_every_phony_target_has_a_rule() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.+)$", text, re.MULTILINE)
    assert phony
    rules = set(re.findall(r"^([a-z-]+):", text, re.MULTILINE))
    assert set(phony[1].split()) == rules - {"$(VENV)/bin/python"}


def test_the_machine_that_checks_runs_what_the_readme_names() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o100, ".ci/run is not executable"
    called = re.findall(r"^make (\w+)$", script, re.MULTILINE)
    assert called == ["check", "test"]
    readme = read("README.md").text
    assert all(f"`make {target}`" in readme or f"make {target}\n" in readme for target in called)
    # A skipped browser test must fail there.
    assert "LONGTAKE_REQUIRE_BROWSER=1" in script


def test_every_package_is_installed() -> None:
    """A wheel holds every package that the source tree has."""
    setuptools = PROJECT["tool"]["setuptools"]
    named = setuptools["packages"]
    have = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for folder in ("server", "engine", "models", "kernels")
        for path in (ROOT / folder).rglob("__init__.py")
    }
    if isinstance(named, dict):
        patterns = named["find"]["include"]
        tops = {pattern.rstrip("*.") for pattern in patterns}
        assert {package.split(".")[0] for package in have} <= tops
    else:
        assert have <= set(named), f"missing from the wheel: {sorted(have - set(named))}"


def test_the_notice_names_the_gpl_parts_of_the_encoder() -> None:
    notice = (ROOT / "NOTICE").read_text()
    assert all(word in notice for word in ("libx264", "libx265", "GNU General Public License"))
    assert any(need.startswith("av==") for need in PROJECT["project"]["dependencies"])
    assert "Apache License" in (ROOT / "LICENSE").read_text()[:400]
