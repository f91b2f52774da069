"""PyTorch: a network trained with Adam, a log that grows, weights saved over the last ones."""

from __future__ import annotations

from pathlib import Path

import torch
from pace import report, steps
from torch import nn


def main() -> None:
    torch.manual_seed(7)
    torch.set_num_threads(2)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.2), nn.Linear(256, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    teacher = torch.randn(64, 10)
    with Path("loss.csv").open("w") as log:
        for step in steps(120):
            inputs = torch.randn(128, 64)
            loss = nn.functional.cross_entropy(model(inputs), (inputs @ teacher).argmax(1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            log.write(f"{step},{loss.item()!r}\n")
            log.flush()
            if step % 20 == 19:
                torch.save(model.state_dict(), "weights.pt")
    report([parameter.detach().numpy().tobytes() for parameter in model.parameters()])


if __name__ == "__main__":
    main()
