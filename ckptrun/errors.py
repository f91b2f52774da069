"""The exception tree: what can go wrong, in the words the user reads, and the exit code each one ends with.

Every message names the thing, the cause and the next step. Callers pass the message; the class fixes the exit code
(``docs``: CLI contract, "Exit codes") so that no other module decides one.

    CkptrunError                    70  internal, or not classified
    ├── UsageError                  64  the command line is wrong
    ├── MissingFeatureError         69  CRIU or a kernel feature is missing
    ├── NoAnswerError               69  a live run does not answer: it is busy, stopped, or just ending
    ├── StoreError                  73  the store cannot be used
    │   ├── StoreUnreachableError   73  no answer: worth another try
    │   ├── StoreRefusedError       73  read-only, denied, or it ignores preconditions
    │   ├── StoreFullError          73  no space, quota
    │   ├── PreconditionError       73  a conditional write lost: someone else wrote
    │   └── CorruptError            73  bytes that do not authenticate, or do not parse
    ├── LedgerError                 73  the effect ledger cannot be used
    │   ├── LedgerUnavailableError  73  no answer: worth another try
    │   └── LedgerLostError         73  it does not know what a checkpoint's memory has done, and was required to
    ├── NoCheckpointError           74  no checkpoint could be restored
    ├── PermissionMissingError      77  not permitted
    ├── ConfigurationError          78  bad configuration
    │   ├── ChoiceNeededError       78  the resume table asks for --resume, --fresh or --name
    │   └── WrongKeyError           78  the passphrase or key file does not open this lineage
    ├── HeldError                   79  the lineage has a live writer
    │   └── FencedError             79  our lease was taken over
    ├── NotExecutableError          126
    ├── CommandNotFoundError        127
    ├── DumpError                   76  a checkpoint failed, the job runs on: what ``checkpoint`` ends with, never a run
    ├── HookError                   76  a hook vetoed or failed: the checkpoint or restore is given up for now
    └── RestoreError                --  one checkpoint could not be restored; the next older one is tried
        └── UnfitError              --  it does not fit this machine or this user: it stays good for others
            └── ContainerGoneError  --  the container it was to be restored into is not there
"""

from __future__ import annotations

from typing import ClassVar


class CkptrunError(Exception):
    """Base of everything ckptrun raises on purpose.

    Args:
        message: one sentence: the thing and the cause.
        hint: the next step, as a sentence the user can act on; empty when there is none.
    """

    exit_code: ClassVar[int] = 70

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.told = False
        """Whether the pod's Events tell of it already."""

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class UsageError(CkptrunError):
    """The command line is wrong."""

    exit_code = 64


class MissingFeatureError(CkptrunError):
    """CRIU or a kernel feature is missing."""

    exit_code = 69


class NoAnswerError(CkptrunError):
    """A live run does not answer what it is asked: it is busy, stopped, or just ending."""

    exit_code = 69


class StoreError(CkptrunError):
    """The store cannot be used."""

    exit_code = 73


class StoreUnreachableError(StoreError):
    """The store did not answer; another try may help."""


class StoreRefusedError(StoreError):
    """The store said no: read-only, access denied, or it ignores preconditions."""


class StoreFullError(StoreError):
    """The store has no room left."""


class PreconditionError(StoreError):
    """A conditional write lost against another writer."""


class CorruptError(StoreError):
    """Stored bytes do not authenticate or do not parse."""


class LedgerError(CkptrunError):
    """The effect ledger cannot be used."""

    exit_code = 73


class LedgerUnavailableError(LedgerError):
    """The effect ledger did not answer; another try may help."""


class LedgerLostError(LedgerError):
    """The effect ledger lacks entries that a checkpoint's memory counts on."""


class NoCheckpointError(CkptrunError):
    """No checkpoint could be restored."""

    exit_code = 74


class PermissionMissingError(CkptrunError):
    """The operation is not permitted."""

    exit_code = 77


class ConfigurationError(CkptrunError):
    """The configuration is wrong."""

    exit_code = 78


class ChoiceNeededError(ConfigurationError):
    """The lineage's past does not say what to do; the user must."""


class WrongKeyError(ConfigurationError):
    """The key does not open this lineage."""


class HeldError(CkptrunError):
    """The lineage is held by another live writer."""

    exit_code = 79


class FencedError(HeldError):
    """Our lease was taken over: this writer must stop."""


class NotExecutableError(CkptrunError):
    """The command exists and cannot be executed."""

    exit_code = 126


class CommandNotFoundError(CkptrunError):
    """The command does not exist."""

    exit_code = 127


class DumpError(CkptrunError):
    """A checkpoint failed; the job is unharmed."""

    exit_code = 76


class HookError(CkptrunError):
    """A hook does not want a checkpoint now (``skipped``), or failed, and that aborts a checkpoint or restore.

    Args:
        message: one sentence: the hook and the cause.
        skipped: it is no failure.
        retry_after: seconds after which another try makes sense, if the hook says so.
    """

    exit_code = 76

    def __init__(self, message: str, *, skipped: bool = False, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.skipped = skipped
        self.retry_after = retry_after


class RestoreError(CkptrunError):
    """One checkpoint could not be restored."""


class UnfitError(RestoreError):
    """A checkpoint does not fit this machine, or whom the run belongs to; elsewhere it is as good as ever."""


class ContainerGoneError(UnfitError):
    """The container that the job lives in has ended and was not started again; the checkpoint is as good as ever."""
