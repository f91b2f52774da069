"""What the calls of the SDK mean to the run: each becomes an event of the machine, in the loop's thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptrun.supervisor.channel import Asked, Channel
    from ckptrun.supervisor.shell import Shell


def register(channel: Channel, shell: Shell) -> None:
    """Have the channel's requests carried out by the loop."""

    def checkpoint(asked: Asked) -> None:
        def told(identity: str | None, error: str | None) -> None:
            if error is None:
                asked.reply(checkpoint=identity)
            else:
                asked.fail("checkpoint", error)

        shell.enqueue(lambda: shell.request(told, wait=bool(asked.fields.get("wait"))))

    channel.register("checkpoint", checkpoint)
