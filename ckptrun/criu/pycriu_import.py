"""Imports pycriu, CRIU's own Python package, from where a CRIU keeps it, and nothing else from there.

Called by whoever reads images. The folder may be a distribution's ``dist-packages``: put on ``sys.path`` it
would shadow the interpreter's own packages, so it never gets there. The first pycriu that a process imports
stays: protobuf's registry holds one description of a message.
"""

from __future__ import annotations

import importlib
import sys
import threading
from copy import deepcopy
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from typing import TYPE_CHECKING, Any

from ckptrun.errors import MissingFeatureError

if TYPE_CHECKING:
    from pathlib import Path

_REMEDY = "run `ckptrun doctor --fix`"
_PROTOBUF_LIMIT = 7  # its descriptors have no 'label' any more, which pycriu asks for
_lock = threading.Lock()


@dataclass(frozen=True)
class Image:
    """One image file's contents, as pycriu words them.

    Args:
        magic: the kind of image, such as ``PSTREE``.
        entries: its messages as dictionaries; bytes that follow a message are in ``extra``, in base64.
    """

    magic: str
    entries: list[dict[str, Any]]


def images(pycriu_path: Path) -> Any:
    """Return the module ``pycriu.images``; the first call takes 0.1 s.

    Raises:
        MissingFeatureError: it is not there, or cannot work with the installed protobuf.
    """
    with _lock:
        if "pycriu" not in sys.modules:
            _import(pycriu_path)
        return importlib.import_module("pycriu.images")


def decode(pycriu_path: Path, data: bytes) -> Image:
    """Return what an image file's bytes say."""
    found = images(pycriu_path).loads(data)
    return Image(found["magic"], found["entries"])


def encode(pycriu_path: Path, image: Image) -> bytes:
    """Return the bytes of an image file; those of an unchanged image are the ones it was decoded from."""
    # pycriu takes the entries apart while writing them.
    found: bytes = images(pycriu_path).dumps({"magic": image.magic, "entries": deepcopy(image.entries)})
    return found


def _import(pycriu_path: Path) -> None:
    installed = metadata.version("protobuf")
    if int(installed.partition(".")[0]) >= _PROTOBUF_LIMIT:
        raise MissingFeatureError(
            f"protobuf {installed} is installed, and pycriu needs an older one",
            hint=f"install 'protobuf<{_PROTOBUF_LIMIT}' in ckptrun's environment",
        )
    spec = PathFinder.find_spec("pycriu", [str(pycriu_path)])
    if spec is None or spec.loader is None:
        raise MissingFeatureError(f"{pycriu_path} holds no pycriu", hint=_REMEDY)
    before = list(sys.path)
    module = module_from_spec(spec)
    sys.modules["pycriu"] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        for name in [name for name in sys.modules if name.partition(".")[0] == "pycriu"]:
            del sys.modules[name]
        raise MissingFeatureError(
            f"pycriu in {pycriu_path} cannot be imported: {error}", hint=_REMEDY
        ) from error
    finally:
        sys.path[:] = before  # pycriu.images appends its own folder
