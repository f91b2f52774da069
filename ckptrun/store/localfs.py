"""A directory as a store."""

from pathlib import Path


class LocalBackend:
    def __init__(self, root: Path, url: str) -> None:
        raise NotImplementedError
