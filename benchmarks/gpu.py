"""What a GPU does with this package, in one command of under ten minutes.

    python benchmarks/gpu.py                                  # 9 minutes on one GPU
    python benchmarks/gpu.py --only training                  # one part, with all the time
    python benchmarks/gpu.py --device cpu --tiny --minutes 3  # a trial without a GPU

tests     : the tests that need CUDA.
training  : a step of training, of cifar1's size and of one for data sets (ch 128, batch 128, colour
            images of 32 x 32), beside plain diffusers (_steps.py says what a step consists of): in
            float32 with and without TF32, bfloat16, compiled, channels-last, with fused Adam.
data_set  : Fashion-MNIST for a minute each: the residual of a density (--density) beside Karras'
            preconditioning, with the same network, batches, seed and clock. Mean squared error on
            held-out images at each noise level.
sampling  : Heun with 18 steps, images a second.
solvers   : the schemes of the Fokker-Planck equation on the GPU and on the CPU.
denoising : `denoise` of a colour photograph of 512 x 512 on the GPU and on the CPU.

Each part is a process of its own with a share of the time, in which what others have left is
shared out, too. A part that fails, or is ended at its limit, is named, with what it has measured,
and does not end the rest. Writes gpu.json and gpu.md into --out.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from _common import RESULTS, environment, table_lines
from score_embedding import kinds
from score_embedding.runs.environment import describe, processor_of

# The parts in their order, with their shares of the time.
SHARES = {
    "tests": 60,
    "training": 165,
    "data_set": 190,
    "sampling": 40,
    "solvers": 45,
    "denoising": 40,
}
RESERVE = 20.0  # seconds, to start and to write
WORKER = Path(__file__).parent / "_gpu_parts.py"
LAST = 1500  # characters of a failed part's messages that are kept

Part = dict[str, Any]


def main() -> None:
    options = parsed()
    deadline = time.monotonic() + 60 * options.minutes - RESERVE
    options.out.mkdir(parents=True, exist_ok=True)
    machine = described(options.device)
    chosen = {options.only: 1} if options.only else SHARES
    parts: dict[str, Part] = {}
    for name in chosen:
        others = sum(share for other, share in chosen.items() if other not in parts)
        seconds = max(1.0, (deadline - time.monotonic()) * chosen[name] / others)
        print(f"\n== {name}: at most {seconds:.0f} s", flush=True)
        parts[name] = run(name, seconds, options)
        print(f"== {name}: {parts[name]['outcome']}, {parts[name]['seconds']:.0f} s", flush=True)
        write(options.out, machine, parts)
    print((options.out / "gpu.md").read_text(encoding="utf-8"))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", type=torch.device, help="cuda, cuda:1 or cpu")
    parser.add_argument("--minutes", default=9.0, type=float, help="of all parts together")
    parser.add_argument("--out", default=RESULTS, type=Path, help="folder of gpu.json and gpu.md")
    parser.add_argument("--only", choices=SHARES, help="one part")
    parser.add_argument("--data", type=Path, help="folder of Fashion-MNIST's IDX files")
    density = "combined" if "combined" in kinds.DENSITIES else "patch_mixture"
    parser.add_argument("--density", default=density, choices=kinds.DENSITIES)
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the program")
    options = parser.parse_args()
    if options.device.type == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is none; --device cpu --tiny is a trial without one")
    return options


def run(name: str, seconds: float, options: argparse.Namespace) -> Part:
    """A part in a process of its own, which is ended after `seconds`: its rows and its outcome."""
    with tempfile.TemporaryDirectory() as folder:
        rows, errors = Path(folder) / "rows.jsonl", Path(folder) / "errors.txt"
        rows.touch()
        command = [sys.executable, str(WORKER), name, str(rows), "--device", str(options.device)]
        # The last tenth is for the start of the process, which the part's own clock does not see.
        command += ["--seconds", str(0.9 * seconds), "--density", options.density]
        command += ["--data", str(options.data.resolve())] if options.data else []
        command += ["--tiny"] if options.tiny else []
        started = time.monotonic()
        with errors.open("w", encoding="utf-8") as log:
            process = subprocess.Popen(command, stderr=log, start_new_session=True)
            try:
                status = process.wait(seconds)
                outcome = "complete" if status == 0 else f"failed (exit status {status})"
            except subprocess.TimeoutExpired:
                outcome = f"ended at its limit of {seconds:.0f} s"
            finally:
                end(process)
        part: Part = {"outcome": outcome, "seconds": time.monotonic() - started}
        if outcome != "complete":
            part["messages"] = errors.read_text(encoding="utf-8", errors="replace")[-LAST:]
            print(part["messages"], flush=True)
        lines = rows.read_text(encoding="utf-8").splitlines()
        return part | {"rows": [json.loads(line) for line in lines if line.endswith("}")]}


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process with those that it has started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def described(device: torch.device) -> dict[str, Any]:
    """The device and what runs on it."""
    about = describe(device, 0, torch.zeros(0))
    machine = {"device": processor_of(device), **environment(), "packages": about["packages"]}
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
        machine |= {"memory, GiB": round(memory / 2**30, 1), "driver": driver()}
        machine |= {"CUDA": torch.version.cuda, "cuDNN": torch.backends.cudnn.version()}
    machine["TF32 in matrix products"] = torch.backends.cuda.matmul.allow_tf32
    machine["TF32 in convolutions"] = torch.backends.cudnn.allow_tf32
    return machine | {"commit": about["git_commit"] or "unknown"}


def driver() -> str:
    """The version of NVIDIA's driver."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answer.stdout.splitlines()[0].strip() if answer.stdout.strip() else "unknown"


def write(folder: Path, machine: dict[str, Any], parts: dict[str, Part]) -> None:
    """gpu.json, and gpu.md with a table of each part."""
    document = json.dumps({"environment": machine, "parts": parts}, indent=1)
    (folder / "gpu.json").write_text(document + "\n", encoding="utf-8")
    shown = {name: value for name, value in machine.items() if name != "packages"}
    overview = [{"": name, "of this run": str(value)} for name, value in shown.items()]
    overview += [{"": name, "of this run": outcome_of(part)} for name, part in parts.items()]
    lines = ["# gpu", "", *table_lines(overview)]
    for name, part in parts.items():
        lines += ["", f"### {name} ({machine['device']})", ""]
        lines += table_lines(summary(name, part["rows"])) if part["rows"] else ["Nothing measured."]
    (folder / "gpu.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def outcome_of(part: Part) -> str:
    return f"{part['outcome']}; {part['seconds']:.0f} s"


def summary(name: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a table: of the tests their number, and those that failed."""
    if name != "tests":
        return rows
    outcomes = [row["outcome"] for row in rows]
    counts = [
        {"test": "all", "outcome": f"{outcomes.count(outcome)} {outcome}"}
        for outcome in dict.fromkeys(outcomes)
    ]
    return counts + [row for row in rows if row["outcome"] == "failed"]


if __name__ == "__main__":
    main()
