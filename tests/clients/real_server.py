"""The program itself as a child process: Redis, worker and gateway with the bundled model."""

import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue

import pytest

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "models" / "weights" / "longtake-tiny" / "transformer.safetensors"
READY = re.compile(r"ready: (http://\S+)")
START_S = 120


@contextmanager
def real_server(data_dir, *flags):
    """Run `python -m server` on a free port; yields the page's address once it is ready."""
    command = [sys.executable, "-m", "server", "--port", "0", "--data-dir", str(data_dir), *flags]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    lines: Queue[str | None] = Queue()

    def read():
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    seen = []
    try:
        while True:
            try:
                line = lines.get(timeout=START_S)
            except Empty:
                pytest.fail(f"not ready within {START_S} s: {''.join(seen)}")
            if line is None:
                pytest.fail(f"ended with {process.wait()}: {''.join(seen)}")
            seen.append(line)
            if match := READY.search(line):
                yield match[1] + "/"
                return
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join(5)
        process.stdout.close()
