"""PyTorch: two processes of torchrun that average their gradients over gloo."""

from __future__ import annotations

import torch
import torch.distributed as dist
from pace import report, steps
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def main() -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(7)
    torch.set_num_threads(1)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 1)))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(dist.get_rank())
    for _ in steps(120):
        inputs = torch.randn(64, 32, generator=generator)
        loss = (model(inputs) - inputs.mean(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if dist.get_rank() == 0:
        report([parameter.detach().numpy().tobytes() for parameter in model.parameters()])
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
