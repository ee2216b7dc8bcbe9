"""What one image costs on a CPU: time and memory of one evaluation of each published network.

    python benchmarks/evaluations.py                    # meanflow_lite/results/evaluations.json
    python benchmarks/evaluations.py --networks iMF-B/2 # some of them; others keep their numbers

The weights are random: neither time nor memory depends on them. Each network has a process of its
own. Time is the processor's, over all threads (other programs disturb it less than the clock on the
wall), the median of the evaluations after the first; memory is the largest resident size of the
process, PyTorch itself and the weights included. A decoder of latents is not part of it.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch
from harness import RESULTS, environment, rounded, write

NETWORKS = ("iMF-B/2", "pMF-B/16", "Drift-B/2", "Drift-B/16", "B/4", "XL/2", "iMF-XL/2", "pMF-L/16")
REPEATS = 4


def measure(name: str, rows: int) -> dict:
    """One evaluation of `rows` images in this process."""
    from meanflow_lite.networks.catalogue import build_any

    torch.manual_seed(0)
    short = {"velocity_head": False} if name.startswith(("iMF", "pMF")) else {}
    net = build_any(name, **short).eval().requires_grad_(False)
    c = net.config
    z = torch.randn(rows, c.channels, c.image_size, c.image_size)
    r, t, y = torch.zeros(rows), torch.ones(rows), torch.zeros(rows, dtype=torch.long)
    processor, wall = [], []
    for _ in range(REPEATS):
        start, clock = time.process_time(), time.perf_counter()
        with torch.inference_mode():
            net(z, r, t, y)
        processor.append(time.process_time() - start)
        wall.append(time.perf_counter() - clock)
    return {
        "parameters": sum(p.numel() for p in net.parameters()),
        "rows": rows,
        "threads": torch.get_num_threads(),
        "processor_seconds": statistics.median(processor[1:]),
        "first_processor_seconds": processor[0],
        "wall_seconds": statistics.median(wall[1:]),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--child", help="measure one network here, and print it")
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(arguments.child, arguments.rows)))
        return
    out = RESULTS / "evaluations.json"
    networks = json.loads(out.read_text())["networks"] if out.exists() else {}
    for name in arguments.networks:
        command = [sys.executable, __file__, "--child", name, "--rows", str(arguments.rows)]
        made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        networks[name] = json.loads(made.splitlines()[-1])
        print(name, networks[name], file=sys.stderr)
    write(out, {**environment(), "networks": rounded(networks)})
    print(json.dumps(networks))


if __name__ == "__main__":
    main()
