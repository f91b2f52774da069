"""Where the Kubernetes API is, and who we are to it: what every pod with a service account finds in itself.

Used by `api`. It must not know what is said there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ckptrun.errors import PermissionMissingError

if TYPE_CHECKING:
    from collections.abc import Mapping

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes mounts the token and the authority's certificate, unless ``CKPTRUN_SERVICE_ACCOUNT_DIR`` says."""

_MOUNT = "give the pod a service account and mount its token (automountServiceAccountToken: true)"


@dataclass(frozen=True, slots=True)
class Access:
    """The API server's address, and the folder of the service account."""

    url: str
    folder: Path

    @property
    def authority(self) -> Path:
        """The certificate that the server's must be signed by."""
        return self.folder / "ca.crt"

    def token(self) -> str:
        """Return the token as it is now: Kubernetes puts a new one there about every hour.

        Raises:
            PermissionMissingError: it cannot be read.
        """
        path = self.folder / "token"
        try:
            token = path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is no text"
            raise PermissionMissingError(f"{path} cannot be read: {why}", hint=_MOUNT) from error
        if not token or any(character.isspace() for character in token):
            raise PermissionMissingError(f"{path} holds no token", hint=_MOUNT)
        return token


def find_access(environ: Mapping[str, str]) -> Access:
    """Return how this pod reaches the API.

    Raises:
        PermissionMissingError: something is missing; it says what, and what to do.
    """
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port:
        raise PermissionMissingError(
            "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set",
            hint="Kubernetes sets them in every container: pass them on to ckptrun",
        )
    host = f"[{host}]" if ":" in host else host
    access = Access(f"https://{host}:{port}", Path(environ.get("CKPTRUN_SERVICE_ACCOUNT_DIR", "") or ACCOUNT))
    access.token()
    if not access.authority.is_file():
        raise PermissionMissingError(f"there is no {access.authority}", hint=_MOUNT)
    return access
