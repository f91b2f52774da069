"""Imports pycriu, CRIU's own Python package, from where a CRIU keeps it, and nothing else from there.

Called by whoever reads images. The folder may be a distribution's ``dist-packages``: put on ``sys.path`` it
would shadow the interpreter's own packages, so it never gets there. The first pycriu that a process imports
stays: protobuf's registry holds one description of a message.
"""

from __future__ import annotations

import importlib
import sys
import threading
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from typing import TYPE_CHECKING, Any

from ckptrun.errors import MissingFeatureError

if TYPE_CHECKING:
    from pathlib import Path

_REMEDY = "run `ckptrun doctor --fix`"
_PROTOBUF_LIMIT = 7  # its descriptors have no 'label' any more, which pycriu asks for
_lock = threading.Lock()


def images(pycriu_path: Path) -> Any:
    """Return the module ``pycriu.images``; the first call takes 0.1 s.

    Raises:
        MissingFeatureError: it is not there, or cannot work with the installed protobuf.
    """
    with _lock:
        if "pycriu" not in sys.modules:
            _import(pycriu_path)
        return importlib.import_module("pycriu.images")


def _import(pycriu_path: Path) -> None:
    from importlib import metadata  # noqa: PLC0415 - slow to import, and every start imports this module

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
