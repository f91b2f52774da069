"""Lightning under ckptrun: ``Trainer(callbacks=[CkptrunCallback(within=600, guard=True)])``.

For ``lightning.pytorch`` and ``pytorch_lightning``: where both are installed, import yours before this. Without
ckptrun the callback does nothing.
"""

from __future__ import annotations

import importlib
import sys

from ckptrun.job.adapters._training import EPOCH, EVALUATION, Training

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Union

    Every = Union[int, str, None]

NAMES = ("lightning.pytorch", "pytorch_lightning")
"""The same framework under two names, with a class `Callback` each."""


def _base() -> Any:
    """Return a class that is a `Callback` to each of them that the job has imported, or else to one it can import."""
    found = [sys.modules[name].Callback for name in NAMES if hasattr(sys.modules.get(name), "Callback")]
    for name in NAMES:
        if not found:
            try:
                found.append(importlib.import_module(name).Callback)
            except ModuleNotFoundError as error:
                if error.name not in {"lightning", *NAMES}:
                    raise
    if not found:
        raise ModuleNotFoundError("neither lightning nor pytorch_lightning is installed", name="lightning")
    return type("Callback", tuple(found), {})


_Base: Any = _base()


class CkptrunCallback(_Base):
    """Beats with every batch, reports what is logged, and on request guards the loss and takes checkpoints.

    The loss is looked at before the optimizer makes weights of it.

    Args:
        within: seconds in which the next batch is done, also one of a validation, from the beginning of the
            training to its end; a training that is silent for longer hangs, and is killed and restored. None promises
            nothing.
        guard: go back to the newest checkpoint when the training loss is not finite: see `ckptrun.job.guard`. Not for
            16-mixed, where a gradient scaler copes with that by itself.
        checkpoint_every: have a checkpoint taken each so many optimizer steps, or after each "epoch" or "evaluation".
            None leaves the times to ckptrun.

    Raises:
        UsageError: an argument makes no sense.
    """

    def __init__(
        self, within: float | None = None, *, guard: bool = False, checkpoint_every: Every = None
    ) -> None:
        super().__init__()
        self._training = Training(within, guard, checkpoint_every)
        self._steps = 0

    def on_train_start(self, trainer: Any, *_: Any) -> None:
        """Begin."""
        self._steps = trainer.global_step
        self._training.begin(first=trainer.local_rank == 0)

    def on_train_end(self, trainer: Any, *_: Any) -> None:
        """Report what was logged last, and end."""
        self._training.report(trainer.callback_metrics)
        self._training.end()

    def on_exception(self, *_: Any) -> None:
        """End as well."""
        self._training.end()

    def on_before_backward(self, _: Any, __: Any, loss: Any) -> None:
        """Remember the loss."""
        self._training.remember(loss)

    def on_before_optimizer_step(self, *_: Any) -> None:
        """See that it is finite."""
        self._training.check()

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Say that a batch is done, and report what is logged with it."""
        self._training.check()
        before, self._steps = self._steps, trainer.global_step
        if self._steps == before:
            self._training.beat()
            return
        often = trainer.log_every_n_steps
        if often and self._steps // often > before // often:
            self._training.report(trainer.callback_metrics)
        self._training.step()

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        """Say that a batch of a validation is done."""
        self._training.beat()

    def on_validation_end(self, trainer: Any, *_: Any) -> None:
        """Report what is logged, and say that a validation is done."""
        self._training.report(trainer.callback_metrics)
        self._training.done(EVALUATION)

    def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
        """Report what is logged, and say that an epoch is done."""
        self._training.report(trainer.callback_metrics)
        self._training.done(EPOCH)
