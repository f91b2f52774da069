"""A tiny language model, trained by Hugging Face's Trainer."""

from __future__ import annotations

import torch
from training import EVALUATE_EVERY, LOG_EVERY, SPOILED, STEPS, Poison, expect_finite, pace, tell
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments, set_seed

from ckptrun.job.adapters.huggingface import CkptrunCallback

CLOCKS = ("runtime", "per_second")
"""In the names of what differs from run to run."""


class Texts(torch.utils.data.Dataset):
    def __init__(self, count: int) -> None:
        self.texts = torch.randint(0, 32, (count, 8))

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.texts[index], "labels": self.texts[index]}


class Poisoned(GPT2LMHeadModel):
    poison = Poison()

    def forward(
        self, input_ids: torch.Tensor, labels: torch.Tensor, **options: object
    ) -> dict[str, torch.Tensor]:
        output = super().forward(input_ids, labels=labels, **options)
        if self.training:
            output["loss"] = output["loss"] * self.poison.factor()
        return output


class Spoiled(Trainer):
    def compute_loss(self, *arguments: object, **options: object) -> torch.Tensor:
        loss = super().compute_loss(*arguments, **options)
        return loss * float("nan") if SPOILED.exists() and self.model.training else loss


class Pace(TrainerCallback):
    def on_optimizer_step(self, *_: object, model: torch.nn.Module, **__: object) -> None:
        expect_finite(model)

    def on_step_end(self, _: object, state: object, *__: object, **___: object) -> None:
        pace(state.global_step)


def main() -> None:
    set_seed(7)
    model = Poisoned(GPT2Config(vocab_size=32, n_positions=8, n_embd=16, n_layer=1, n_head=2))
    arguments = TrainingArguments(
        output_dir="out",
        max_steps=STEPS,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        logging_steps=LOG_EVERY,
        eval_strategy="steps",
        eval_steps=EVALUATE_EVERY,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Spoiled(
        model=model,
        args=arguments,
        train_dataset=Texts(64),
        eval_dataset=Texts(8),
        callbacks=[Pace(), CkptrunCallback(within=600, guard=True, checkpoint_every="evaluation")],
    )
    trainer.train()
    assert arguments.logging_nan_inf_filter
    assert not model._forward_hooks
    history = [
        {name: value for name, value in line.items() if not any(clock in name for clock in CLOCKS)}
        for line in trainer.state.log_history
    ]
    tell(model, history, [line["eval_loss"] for line in history if "eval_loss" in line])


if __name__ == "__main__":
    main()
