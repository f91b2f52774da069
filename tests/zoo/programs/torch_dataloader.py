"""PyTorch: batches made by DataLoader's worker processes, passed in shared memory."""

from __future__ import annotations

import torch
from pace import report, steps
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Numbers(Dataset[torch.Tensor]):
    """Rows that depend on nothing but their index."""

    def __len__(self) -> int:
        return 120 * 16

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.randn(256, generator=torch.Generator().manual_seed(index))


def main() -> None:
    torch.manual_seed(7)
    torch.set_num_threads(1)
    model = nn.Linear(256, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    batches = iter(DataLoader(Numbers(), batch_size=16, num_workers=2, shuffle=True))
    seen = []
    for _ in steps(120):
        batch = next(batches)
        loss = (model(batch) - batch.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    report(seen, model.weight.detach().numpy().tobytes())


if __name__ == "__main__":
    main()
