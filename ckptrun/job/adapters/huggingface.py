"""Hugging Face's Trainer under ckptrun: ``Trainer(…, callbacks=[CkptrunCallback(within=600, guard=True)])``.

Without ckptrun the callback does nothing.
"""

from __future__ import annotations

from transformers import TrainerCallback

from ckptrun.job.adapters._training import EPOCH, EVALUATION, LOSS, Training

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Union

    Every = Union[int, str, None]


class CkptrunCallback(TrainerCallback):
    """Beats with every batch, reports what the Trainer logs, and on request guards the loss and takes checkpoints.

    A loss that the model itself returns is looked at before the optimizer makes weights of it, one that is computed
    outside of the model, or by a compiled one, when it is logged: while it is guarded, `logging_nan_inf_filter` is off
    in each step, for it would put another number in its place.

    Args:
        within: seconds in which the next batch is done, also one of an evaluation, from the beginning of the
            training to its end; a training that is silent for longer hangs, and is killed and restored. None promises
            nothing.
        guard: go back to the newest checkpoint when the training loss is not finite: see `ckptrun.job.guard`. Not for
            fp16, where a gradient scaler copes with that by itself.
        checkpoint_every: have a checkpoint taken each so many optimizer steps, or after each "epoch" or "evaluation".
            None leaves the times to ckptrun.

    Raises:
        UsageError: an argument makes no sense.
    """

    def __init__(
        self, within: float | None = None, *, guard: bool = False, checkpoint_every: Every = None
    ) -> None:
        self._training = Training(within, guard, checkpoint_every)
        self._filter: bool | None = None
        self._hook: Any = None

    def on_train_begin(self, args: Any, state: Any, *_: Any, model: Any = None, **__: Any) -> None:
        """Begin."""
        self._let_go(args)
        self._training.begin(first=state.is_local_process_zero)
        if self._training.guards and model is not None and not getattr(args, "torch_compile", False):
            self._hook = model.register_forward_hook(self._see)

    def on_train_end(self, args: Any, *_: Any, **__: Any) -> None:
        """End."""
        self._training.end()
        self._let_go(args)

    def on_step_begin(self, args: Any, *_: Any, **__: Any) -> None:
        """Have the Trainer hide nothing."""
        if self._training.guards and self._filter is None:
            self._filter, args.logging_nan_inf_filter = args.logging_nan_inf_filter, False

    def on_substep_end(self, *_: Any, **__: Any) -> None:
        """Say that a batch is done, whose gradients are added to others."""
        self._training.check()
        self._training.beat()

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """See that the loss is finite."""
        self._training.check()

    def on_step_end(self, args: Any, *_: Any, **__: Any) -> None:
        """Say that a step is done."""
        self._put_back(args)
        self._training.check()
        self._training.step()

    def on_prediction_step(self, *_: Any, **__: Any) -> None:
        """Say that a batch of an evaluation is done."""
        self._training.beat()

    def on_evaluate(self, *_: Any, **__: Any) -> None:
        """Say that an evaluation is done; its figures have been logged."""
        self._training.done(EVALUATION)

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        """Say that an epoch is done."""
        self._training.done(EPOCH)

    def on_log(self, *_: Any, logs: Any = None, **__: Any) -> None:
        """Report what is logged."""
        self._training.check_logged(logs or {})
        self._training.report(logs or {})

    def _see(self, module: Any, _: Any, output: Any) -> None:
        """Remember the loss that the model has computed, if it is one that is trained on."""
        loss = output.get(LOSS) if hasattr(output, "get") else None
        if module.training and getattr(loss, "requires_grad", False):
            self._training.remember(loss)

    def _put_back(self, args: Any) -> None:
        if self._filter is not None:
            args.logging_nan_inf_filter, self._filter = self._filter, None

    def _let_go(self, args: Any) -> None:
        """Leave the Trainer as it was found, also by a training that failed in the middle of a step."""
        self._put_back(args)
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
