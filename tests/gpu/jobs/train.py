"""Trains a small network on a GPU, the same way every time, and prints a digest of its weights.

Data, weights, the optimizer's state and the random generator live on the GPU. ``--fork`` has a child hold the devices,
``--fill`` keeps so many MiB more there.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from pathlib import Path

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS refuses to be deterministic

import torch  # it reads that when it is loaded

HOLD = Path("hold")
"""While this file exists, the job does not take its last step."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--pause", type=float, default=0.02)
    parser.add_argument("--fill", type=int, default=0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--fork", action="store_true")
    options = parser.parse_args()
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(7)
    generator = torch.Generator(options.device).manual_seed(11)
    network = torch.nn.Sequential(
        torch.nn.Linear(64, 512), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(512, 10)
    ).to(options.device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    kept = torch.ones(options.fill << 18, device=options.device)
    if options.fork and os.fork() == 0:
        time.sleep(3600)
    for step in range(1, options.steps + 1):
        while step == options.steps and HOLD.exists():
            time.sleep(0.01)
        inputs = torch.randn(256, 64, device=options.device, generator=generator)
        labels = (inputs.sum(1) * 3).long().remainder(10)
        loss = torch.nn.functional.cross_entropy(network(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step} {loss.item():.9f}", flush=True)
        time.sleep(options.pause)
    digest = hashlib.sha256()
    for _, tensor in sorted(network.state_dict().items()):
        digest.update(tensor.cpu().numpy().tobytes())
    print(f"weights {digest.hexdigest()} {int(kept.sum().item()) >> 18}", flush=True)


if __name__ == "__main__":
    main()
