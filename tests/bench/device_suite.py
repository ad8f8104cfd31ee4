"""Everything that is measured on a CUDA device, in one run with a time budget.

    python3 -m tests.bench.device_suite --out DIR --budget-s 230

Runs the tests marked ``gpu``, then the 1.3B shapes at 832x480 with random weights, the bundled
model, and kernels one by one: what matters most comes first. Needs the packages torch, triton,
numpy, safetensors and sentencepiece and, for the tests, pytest and hypothesis; nothing is
downloaded. Results are written to ``DIR/device_suite.json`` after every item, so a run that is cut
off keeps what it measured; an item that fails leaves its traceback there and the next one runs, in
a new process where the failure has spoiled this one's CUDA context. The bundled model's rows are in
``DIR/gpu-engine-bench.json``. Both files can be put into ``tests/bench/results`` as they are.
"""

import argparse
import faulthandler
import gc
import io
import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from engine import bench
from engine.accelerated import BATCH_SIZES, generator_factory
from engine.asked import Credit, PromptPart, StreamSpec
from engine.benchmark import Case, run_case, with_share
from engine.config import EngineConfig
from engine.engine import Engine
from engine.events import Admitted, ChunkReady, SessionEnded
from engine.flops import matmul_rate
from engine.work_policy import WorkPolicy
from kernels.cudnn import CudnnAttention
from kernels.fp8 import Fp8Linear
from kernels.interface import Kernels
from kernels.torch_backend import RunAttention
from models.accelerate import accelerate
from models.interface import LoadedModel
from models.policy import CachePolicy
from models.random_model import random_model
from models.registry import find
from tests.kernels.plans import make_plan

SIZE = (832, 480)
GRID, HW, HEADS, HEAD_DIM, WIDTH = (30, 52), 1560, 12, 128, 1536
ROOT = Path(__file__).resolve().parents[2]
DEVICE = torch.device("cuda")
BF16 = torch.bfloat16
GPU_TESTS = (
    "tests/kernels",
    "tests/engine/test_captured_engine.py",
    "tests/engine/test_cuda_graph.py",
    "tests/engine/test_flight.py",
    "tests/engine/test_frame_copy.py",
    "tests/models/test_text_host.py",
)
"""Where tests are marked ``gpu``; what else there is wants packages that a device may lack."""
SPOILED = 3
"""Exit status of a process whose CUDA context an item has spoiled."""


class OutOfTime(BaseException):
    """An item ran past its share."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    def stop(signum: int, frame: object) -> None:
        raise OutOfTime(f"stopped after {seconds:.0f} s")

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(0.1, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


class Suite:
    """Items with a time budget; results on disk after each, and those of processes before."""

    def __init__(self, out: Path, started: float, budget_s: float, only: str | None) -> None:
        self.out, self.started, self.budget_s, self.only = out, started, budget_s, only
        self.results: dict[str, Any] = results_in(out)

    @property
    def left_s(self) -> float:
        return self.budget_s - (time.monotonic() - self.started)

    def item(self, name: str, expected_s: float, run: Callable[[], Any], most_s: float) -> Any:
        """Run one item unless it was run or will not fit; return its result or None."""
        if self.only is not None and name not in self.only.split(","):
            return None
        if name in self.results:
            known = self.results[name]["result"]
            return None if "error" in known or "skipped" in known else known
        if self.left_s < expected_s:
            self._keep(name, {"skipped": f"{self.left_s:.0f} s left, {expected_s:.0f} s needed"})
            return None
        self._write(name, {"error": "its process ended"}, 0.0)  # what stays if that happens
        began, seconds = time.monotonic(), min(most_s, self.left_s)
        # A call into CUDA that never returns is beyond a signal's reach.
        faulthandler.dump_traceback_later(seconds + 10, exit=True)
        try:
            with time_limit(seconds):
                result = run()
        except (Exception, OutOfTime):  # whatever it is, the next item runs
            self._keep(name, {"error": traceback.format_exc()[-3000:]}, began)
            result = None
            if spoiled():
                os._exit(SPOILED)
        else:
            self._keep(name, result, began)
        gc.collect()
        torch.cuda.empty_cache()
        faulthandler.cancel_dump_traceback_later()
        return result

    def _keep(self, name: str, result: Any, began: float | None = None) -> None:
        took = 0.0 if began is None else time.monotonic() - began
        self._write(name, result, took)
        line = json.dumps(result)
        print(f"[{time.monotonic() - self.started:6.1f} s] {name} ({took:.1f} s): {line[:700]}")
        sys.stdout.flush()

    def _write(self, name: str, result: Any, took: float) -> None:
        self.results[name] = {"took_s": round(took, 1), "result": result}
        path = self.out / "device_suite.json"
        unfinished = path.with_suffix(".tmp")
        unfinished.write_text(json.dumps(self.results, indent=1))
        unfinished.replace(path)


def results_in(out: Path) -> dict[str, Any]:
    """Return what is measured already."""
    path = out / "device_suite.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def spoiled() -> bool:
    """Whether nothing works on the device any more, as after an illegal memory access."""
    try:
        torch.cuda.synchronize()  # noqa: TID251
    except Exception:
        return True
    return False


def environment() -> dict[str, Any]:
    import triton

    properties = torch.cuda.get_device_properties(DEVICE)
    rate = matmul_rate(DEVICE, BF16, time.perf_counter)
    a = torch.empty(2**31, dtype=torch.uint8, device=DEVICE).random_()
    b = torch.empty_like(a)
    copy_s = median_s(lambda: b.copy_(a), 10)
    return {
        "device": torch.cuda.get_device_name(DEVICE),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "triton": triton.__version__,
        "multiprocessors": properties.multi_processor_count,
        "memory_gb": round(properties.total_memory / 1e9, 1),
        "matmul_bf16_tflops": round(rate / 1e12, 1),
        "copy_tb_per_s": round(2 * a.nbytes / copy_s / 1e12, 2),
    }


def median_s(run: Callable[[], Any], repeats: int = 15) -> float:
    """Median seconds of a call on the device, by events, after three that warm up."""
    for _ in range(3):
        run()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return statistics.median(times)


def gpu_tests(out: Path) -> dict[str, Any]:
    """Run the marked tests in a process of their own, without the suite's other fixtures."""
    words = [sys.executable, "-m", "pytest", "--noconftest", "-q", "-m", "gpu", "--tb=short"]
    words += ["-p", "no:cacheprovider", "--maxfail=8", "-o", "filterwarnings=default"]
    try:
        import xdist  # noqa: F401

        words += ["-n", "6"]
    except ImportError:
        pass
    process = subprocess.Popen(
        [*words, *GPU_TESTS], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        output, _ = process.communicate(timeout=75)
    except (subprocess.TimeoutExpired, OutOfTime):
        process.kill()
        output, _ = process.communicate()
        output += "\nstopped: out of time"
    (out / "gpu_tests.txt").write_text(output)
    lines = output.strip().splitlines()
    return {"exit": process.returncode, "summary": lines[-1:], "tail": "\n".join(lines[-60:])}


def window_plan(frames: int, scattered: bool = False) -> Any:
    read = list(range(1, frames + 1))
    if scattered:
        read = [1 + (5 * i) % 23 for i in range(frames)]
        assert len(set(read)) == frames
    return make_plan(
        write=[read[-3:]], read=[read], query_frames=[[40, 41, 42]], grid=GRID, head_dim=HEAD_DIM,
        device=DEVICE, keep_order=scattered,
    )  # fmt: skip


@torch.inference_mode()
def attention() -> dict[str, Any]:
    """Self-attention of a chunk over its window: TFLOP/s of every way to compute it."""
    from kernels.attention_tiles import AttentionTiles
    from kernels.triton_backend import TritonAttention

    k, v = (torch.randn(24, HW, HEADS, HEAD_DIM, device=DEVICE, dtype=BF16) for _ in range(2))
    q = torch.randn(1, 3 * HW, HEADS, HEAD_DIM, device=DEVICE, dtype=BF16)
    ways: dict[str, Any] = {"sdpa": RunAttention(), "cudnn": CudnnAttention()}
    for descriptor in (True, False):
        for m, n, warps, stages, splits in (
            (128, 128, 8, 2, 1),
            (128, 128, 8, 2, 2),
            (128, 64, 8, 3, 2),
            (128, 64, 8, 4, 2),
            (64, 128, 4, 2, 2),
            (128, 128, 8, 3, 2),
        ):
            tiles = AttentionTiles(m, n, warps, stages, splits, descriptor)
            kind = "tma" if descriptor else "ptr"
            ways[f"triton {kind} {m}x{n} w{warps} s{stages} k{splits}"] = TritonAttention(tiles)
    rows: dict[str, Any] = {}
    for name, way in ways.items():
        plan = window_plan(12)
        try:
            seconds = median_s(partial(way.paged, q, k, v, plan))
        except Exception as error:
            rows[name] = f"{type(error).__name__}: {error}"[:200]
            continue
        flops = 4 * 3 * HW * 12 * HW * WIDTH
        rows[name] = {"ms": round(1000 * seconds, 4), "tflops": round(flops / seconds / 1e12, 1)}
    best = min(
        (name for name in rows if name.startswith("triton") and isinstance(rows[name], dict)),
        key=lambda name: rows[name]["ms"],
    )
    way, pointers = ways[best], ways["triton ptr 128x128 w8 s2 k2"]
    for name, other, frames, scattered in (
        ("best triton, 21 frames", way, 21, False),
        ("cudnn, 21 frames", ways["cudnn"], 21, False),
        ("sdpa, 21 frames", ways["sdpa"], 21, False),
        ("triton, scattered pages, 12 frames", pointers, 12, True),
    ):
        plan = window_plan(frames, scattered)
        seconds = median_s(partial(other.paged, q, k, v, plan))
        flops = 4 * 3 * HW * frames * HW * WIDTH
        rows[name] = {"ms": round(1000 * seconds, 4), "tflops": round(flops / seconds / 1e12, 1)}
    prompt = torch.randn(1, 512, HEADS, HEAD_DIM, device=DEVICE, dtype=BF16)
    for name in ("sdpa", "cudnn"):
        seconds = median_s(partial(ways[name].dense, q, prompt, prompt))
        rows[f"{name}, prompt"] = {"ms": round(1000 * seconds, 4)}
    return {"shape": "4680 queries, 12 heads of 128, bf16", "best": best, "rows": rows}


@torch.inference_mode()
def operations() -> dict[str, Any]:
    """Fused operations against plain torch, and the products they stand between."""
    from kernels.torch_backend import TorchKernels
    from kernels.triton_backend import TritonKernels

    x, y = (torch.randn(1, 3 * HW, WIDTH, device=DEVICE, dtype=BF16) for _ in range(2))
    m = torch.randn(1, 3, 6, WIDTH, device=DEVICE).unbind(2)
    weight = torch.randn(WIDTH, device=DEVICE, dtype=BF16)
    up = torch.randn(8960, WIDTH, device=DEVICE, dtype=BF16) * WIDTH**-0.5
    bias = torch.randn(8960, device=DEVICE, dtype=BF16)

    class Norm:
        q_weight, k_weight, eps = weight, weight, 1e-6

    plan = window_plan(12)
    pages = torch.zeros(2, 24, HW, HEADS, HEAD_DIM, device=DEVICE, dtype=BF16)
    calls: dict[str, Callable[[Kernels], torch.Tensor]] = {
        "modulate": lambda k: k.modulate(x, m[0], m[1], 1e-6),
        "gated_residual": lambda k: k.gated_residual(x, y, m[2]),
        "layer_norm": lambda k: k.layer_norm(x, weight, weight, 1e-6),
        "write_kv": lambda k: k.write_kv(x, y, x, Norm, plan, pages[0], pages[1]),
        "gelu_linear": lambda k: k.gelu_linear(x, up, bias),
    }
    rows: dict[str, Any] = {}
    for name, call in calls.items():
        for kind, kernels in (("torch", TorchKernels()), ("triton", TritonKernels())):
            seconds = median_s(partial(call, kernels))
            rows[f"{name} {kind}"] = round(1000 * seconds, 4)
    for name, out, into in (("qkv", 3 * WIDTH, WIDTH), ("up", 8960, WIDTH), ("down", WIDTH, 8960)):
        linear = torch.nn.Linear(into, out, device=DEVICE, dtype=BF16)
        eight = Fp8Linear.of(linear)
        wide = torch.randn(1, 3 * HW, into, device=DEVICE, dtype=BF16)
        for kind, layer in (("bf16", linear), ("fp8", eight)):
            seconds = median_s(partial(layer, wide))
            tflops = 2 * 3 * HW * out * into / seconds / 1e12
            rows[f"linear {name} {kind}"] = [round(1000 * seconds, 4), round(tflops, 1)]
    return {"unit": "ms (and TFLOP/s of products)", "rows": rows}


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget-s", type=float, default=270.0)
    parser.add_argument("--only", help="names of items, separated by commas")
    parser.add_argument("--skip-tests", action="store_true")
    options = parser.parse_args(words)
    started = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "device_suite.json").unlink(missing_ok=True)
    # CUDA is touched in the child alone, so that after a broken one another can begin anew.
    fork = multiprocessing.get_context("fork")
    while True:
        known = len(results_in(options.out))
        child = fork.Process(target=measure, args=(options, started))
        child.start()
        child.join()
        code = child.exitcode
        if code == 0 or len(results_in(options.out)) == known:
            break
        print(f"a process ended with {code}; another one goes on behind its last item", flush=True)
    print(f"done in {time.monotonic() - started:.0f} s: {options.out / 'device_suite.json'}")
    return 0 if code == 0 else 2


def measure(options: argparse.Namespace, started: float) -> None:
    """Run every item that has no result yet."""
    if not torch.cuda.is_available():
        print("no CUDA device: this suite measures one; run it where torch sees a GPU")
        sys.exit(2)
    suite = Suite(options.out, started, options.budget_s, options.only)
    env = suite.item("environment", 5, environment, 40)
    rate = env["matmul_bf16_tflops"] * 1e12 if env else None
    if not options.skip_tests:
        suite.item("gpu_tests", 30, lambda: gpu_tests(options.out), 85)
    model_items(suite, rate)


def best_kernels(measured: dict[str, Any]) -> Kernels:
    """The Triton kernels with the tiles that were fastest just now."""
    from kernels.attention_tiles import AttentionTiles
    from kernels.triton_backend import TritonAttention, TritonKernels

    _, kind, tile, warps, stages, splits = measured["best"].split()
    m, n = tile.split("x")
    tiles = AttentionTiles(
        int(m), int(n), int(warps[1:]), int(stages[1:]), int(splits[1:]), kind == "tma"
    )
    return TritonKernels(TritonAttention(tiles))


def model_items(suite: Suite, rate: float | None) -> None:
    from kernels.triton_backend import TritonAttention, TritonKernels

    entry = replace(
        find("longlive-1.3b"), cache=CachePolicy(window_frames=12, sink_frames=3), sizes=(SIZE,)
    )
    built: list[LoadedModel] = []

    def shared(row: dict[str, Any]) -> dict[str, Any]:
        return row if rate is None else with_share(row, rate)

    def network() -> LoadedModel:
        """Build the model when the first item of a process wants it."""
        if not built:
            model = random_model(entry, device=DEVICE, dtype=BF16, kernels=TritonKernels())
            accelerate(model.transformer, TritonKernels())
            built.append(model)
        return built[0]

    def run(
        case: Case, kernels: Kernels, decoder: str | None = "taehv", limit_s: float = 60.0
    ) -> Callable[[], Any]:
        def measure_case() -> dict[str, Any]:
            model, codec = network(), None
            accelerate(model.transformer, kernels)
            if decoder == "taehv":
                codec = model.codec
            elif decoder is not None:
                with DEVICE:
                    codec = entry.codec_named(decoder).build().to(BF16).eval()
                codec.requires_grad_(False)
            return shared(run_case(model, case, kernels, time.perf_counter, codec, limit_s))

        return measure_case

    item = suite.item
    triton: Kernels = TritonKernels(TritonAttention(descriptor=True))
    base = Case("12-frame window, 3 sink frames", SIZE, 12, 3, 4)
    item("taehv_captured_triton", 18, run(base, triton), 60)
    item("taehv_eager_fastest", 14, run(replace(base, captured=False), triton), 40)

    def rounded(policy: WorkPolicy) -> dict[str, Any]:
        other = random_model(entry, device=DEVICE, dtype=BF16, kernels=triton)
        accelerate(other.transformer, triton, policy.linear)
        case = replace(base, policy=policy)
        return shared(run_case(other, case, triton, time.perf_counter, other.codec, 30.0))

    eight = WorkPolicy(attention="fp8", linear="fp8")
    item("taehv_fp8", 12, lambda: rounded(eight), 40)
    item("taehv_captured_fp8", 12, lambda: rounded(replace(eight, attention="plain")), 40)
    only_attention = replace(eight, linear="plain")
    item("taehv_fp8_attention", 12, run(replace(base, policy=only_attention), triton), 40)
    grow = replace(
        base, name="21-frame window, growing", window_frames=21, sink_frames=0, growing=True
    )
    item("taehv_growing_21", 14, run(grow, triton), 40)
    item("two_streams_16_fps", 22, lambda: viewers(network(), triton, 2, 4), 50)
    fewer = replace(base, name="12-frame window, 3 sink frames, 2 steps", steps=2)
    item("taehv_two_steps", 8, run(fewer, triton), 30)
    item("four_streams_16_fps_two_steps", 25, lambda: viewers(network(), triton, 4, 2), 60)
    item("denoise_only_captured_fastest", 12, run(base, triton, None), 40)
    item("wan_vae_captured", 22, run(base, triton, "wan-vae"), 60)
    item("batch_2", 22, run(replace(base, batch=2), triton), 60)
    item("longtake_tiny", 14, lambda: bundled(suite.out), 40)
    merged = WorkPolicy(merge_clean_pass=True)
    item("taehv_captured_merged", 12, run(replace(base, policy=merged), triton), 40)
    sparse = WorkPolicy(keep_pages=3)
    item("taehv_keep_3_pages", 12, run(replace(base, policy=sparse), triton), 40)
    item("taehv_captured_cudnn", 14, run(base, TritonKernels(CudnnAttention())), 40)
    item("taehv_captured_sdpa", 14, run(base, TritonKernels(RunAttention())), 40)
    full = replace(base, name="21-frame window", window_frames=21, sink_frames=0)
    item("taehv_full_21", 18, run(full, triton), 40)
    item("operations", 6, operations, 30)
    measured = item("attention", 15, attention, 60)
    if measured is not None:
        item("triton_tuned", 14, lambda: aside(run(base, best_kernels(measured))), 40)
    item("batch_4", 40, run(replace(base, batch=4), triton), 90)

    def tuned_convolutions() -> dict[str, Any]:
        with torch.backends.cudnn.flags(benchmark=True, allow_tf32=True):
            return aside(run(base, triton))

    item("taehv_tuned_convolutions", 15, tuned_convolutions, 40)


def aside(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Measure a variant that no engine runs: what tables make rows of is left out."""
    row = run()
    return {name: row[name] for name in ("frames_per_s", "chunk_ms", "kernels", "peak_memory_gb")}


def bundled(out: Path) -> dict[str, Any]:
    """Run the engine's own benchmark on the bundled model; its report is a file of its own."""
    words = "--model longtake-tiny --batch 1,4 --decoder none,taehv --json"
    said = io.StringIO()
    with redirect_stdout(said):
        code = bench.main(words.split())
    assert code == 0, f"exit status {code}"
    report = json.loads(said.getvalue().strip().splitlines()[-1])
    (out / "gpu-engine-bench.json").write_text(json.dumps(report) + "\n")
    names = ("batch", "decoder", "captured", "kernels", "frames_per_s")
    return {"frames_per_s": [[row[name] for name in names] for row in report["rows"]]}


def viewers(
    model: LoadedModel, kernels: Kernels, count: int, steps: int, seconds: float = 12.0
) -> dict[str, Any]:
    """Viewers at 16 frames a second through the engine itself, by the clock."""
    accelerate(model.transformer, kernels)
    clock = time.monotonic
    sizes = tuple(size for size in BATCH_SIZES if size < 2 * count)
    engine = Engine(
        model,
        # The door would close at a load of 0.9; here the deadlines are the judge.
        EngineConfig(
            max_sessions=count,
            max_jobs=0,
            max_batch=count,
            max_load=2.0,
            noise_threads=4,
            adapt_steps=False,
        ),
        clock,
        make_generator=generator_factory(kernels, batch_sizes=sizes),
    )
    # Graphs of the streams' windows as they fill are captured before anybody watches.
    for round_ in ("warm", "timed"):
        names = [f"{round_}-{i}" for i in range(count)]
        for name in names:
            parts = (PromptPart(f"a stream called {name}"),)
            frames = 12 * 6 - 3 if round_ == "warm" else None
            pacing = "asap" if round_ == "warm" else "realtime"
            spec = StreamSpec(name, parts, 7, *SIZE, 16.0, frames, steps, "live", pacing)  # type: ignore[arg-type]
            admitted = engine.admit(spec, clock())
            assert isinstance(admitted, Admitted), admitted
        chunks: list[ChunkReady] = []
        ended = 0
        until = clock() + (30.0 if round_ == "warm" else seconds)
        while clock() < until and ended < count:
            events = engine.step(clock())
            for event in events:
                if isinstance(event, ChunkReady):
                    chunks.append(event)
                    if round_ == "warm":
                        last = event.first_frame + event.num_frames - 1
                        engine.apply(Credit(event.session_id, last), clock())
                ended += isinstance(event, SessionEnded)
                if isinstance(event, SessionEnded) and event.error:
                    raise RuntimeError(event.error)
            if not events:
                time.sleep(0.001)
    load = engine.capacity().load
    engine.close()
    slack = [chunk.slack_s for chunk in chunks if chunk.slack_s is not None]
    batch = statistics.median([chunk.denoise_ms for chunk in chunks])
    return {
        "streams": count,
        "steps": steps,
        "seconds": seconds,
        "chunks": len(chunks),
        "frames_per_s_each": round(sum(c.num_frames for c in chunks) / count / seconds, 2),
        "missed_deadlines": sum(value < 0 for value in slack),
        # The page begins to play 100 ms after its first picture (clients/web/playout.js).
        "missed_by_the_page": sum(value < -0.1 for value in slack),
        "least_slack_s": round(min(slack), 3),
        "denoise_ms": round(batch, 1),
        "decode_ms": round(statistics.median([chunk.decode_ms for chunk in chunks]), 1),
        "load": round(load, 3),
        "costs": {str(size): round(s, 4) for size, s in engine.costs.pass_s.items()},
        "decode_cost_s": round(engine.costs.decode_s, 4),
        "kernels": kernels.name,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
