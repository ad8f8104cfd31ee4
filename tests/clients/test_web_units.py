"""The page's pure modules, tested where they run: under Node, else in Chromium."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.clients.browser import needs_browser, open_page, serve_folder

ROOT = Path(__file__).resolve().parents[2]
TESTS = sorted((ROOT / "tests" / "clients" / "web").glob("*.test.js"))
MODULES = sorted((ROOT / "clients" / "web").glob("*.js"))
NODE = shutil.which("node")


def failures(results):
    return [f"{result['name']}: {result['error']}" for result in results if result["error"]]


@pytest.mark.skipif(NODE is None, reason="Node is not installed; Chromium runs the same tests")
@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_units_hold_under_node(path):
    command = [NODE, str(path.parent / "run_node.js"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    assert results
    assert not failures(results)


@pytest.mark.skipif(NODE is None, reason="Node is not installed")
@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_every_module_parses(path):
    done = subprocess.run(
        [NODE, "--check", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.browser
@needs_browser
def test_units_hold_in_chromium():
    with serve_folder(ROOT) as url, open_page() as page:
        page.goto(url + "tests/clients/web/empty.html")
        names = [f"./{path.name}" for path in TESTS]
        results = page.evaluate(
            """async (names) => {
                const { runAll } = await import("./harness.js");
                for (const name of names) await import(name);
                return runAll();
            }""",
            names,
        )
        assert len(results) > 40
        assert not failures(results)
