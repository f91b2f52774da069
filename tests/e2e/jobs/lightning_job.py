"""A tiny network, trained by Lightning; the first argument says under which of its names."""

from __future__ import annotations

import importlib
import sys
import warnings

import torch
from torch import nn
from training import EVALUATE_EVERY, LOG_EVERY, STEPS, Poison, expect_finite, pace, tell

pl = importlib.import_module(sys.argv[1] if len(sys.argv) > 1 else "lightning.pytorch")

from ckptrun.job.adapters.lightning import CkptrunCallback  # noqa: E402 - after the Lightning that it is for


class Points(torch.utils.data.Dataset):
    def __init__(self, count: int) -> None:
        self.points = torch.randn(count, 8)

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.points[index]


class Autoencoder(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(8, 4), nn.Dropout(0.2), nn.Linear(4, 8))
        self.poison = Poison()
        self.history: list[float] = []
        self.figures: list[float] = []

    def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
        loss = nn.functional.mse_loss(self.network(batch), batch) * self.poison.factor()
        self.log("loss", loss)
        self.history.append(loss.item())
        return loss

    def validation_step(self, batch: torch.Tensor, _: int) -> None:
        self.log("val_loss", nn.functional.mse_loss(self.network(batch), batch))

    def on_validation_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.figures.append(self.trainer.callback_metrics["val_loss"].item())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Pace(pl.Callback):
    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        expect_finite(trainer.lightning_module)
        pace(trainer.global_step)


def main() -> None:
    warnings.filterwarnings("ignore")
    pl.seed_everything(7)
    model = Autoencoder()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        accumulate_grad_batches=2,
        log_every_n_steps=LOG_EVERY,
        val_check_interval=2 * EVALUATE_EVERY,
        check_val_every_n_epoch=None,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Pace(), CkptrunCallback(within=600, guard=True, checkpoint_every="evaluation")],
    )
    data = torch.utils.data.DataLoader(Points(64), 4, shuffle=True)
    trainer.fit(model, data, torch.utils.data.DataLoader(Points(8), 4))
    tell(model, model.history, model.figures)


if __name__ == "__main__":
    main()
