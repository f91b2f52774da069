"""Compression of chunks: zstd level 1, or raw where a sample says that it would not help.

A stored chunk needs no mark for which of the two it is: compressed bytes are kept only if they are fewer.
Called by `writing` and `reading`. It must not know about keys or places.
"""

from __future__ import annotations

import threading

import zstandard

from ckptrun.errors import CorruptError

LEVEL = 1
SAMPLES = 4
SAMPLE_SIZE = 4096
WORTHWHILE = 0.9
"""Compressed size over raw size above which the time is not worth the bytes: float weights give 0.92."""

_local = threading.local()


def compress(raw: bytes | memoryview) -> bytes | memoryview:
    """Return ``raw`` compressed if that makes it smaller, else as it is."""
    compressor = _compressor()
    size = len(raw)
    if size > SAMPLES * SAMPLE_SIZE:
        view = memoryview(raw)
        step = (size - SAMPLE_SIZE) // (SAMPLES - 1)
        sampled = sum(
            len(compressor.compress(view[i * step : i * step + SAMPLE_SIZE])) for i in range(SAMPLES)
        )
        if sampled > WORTHWHILE * SAMPLES * SAMPLE_SIZE:
            return raw
    packed = compressor.compress(raw)
    return packed if len(packed) < size else raw


def expand(stored: bytes | memoryview, raw_size: int) -> bytes | memoryview:
    """Undo `compress`; the result has ``raw_size`` bytes.

    Raises:
        CorruptError: it does not.
    """
    if len(stored) == raw_size:
        return stored
    try:
        if zstandard.frame_content_size(stored) != raw_size:
            raise CorruptError("a compressed chunk has another size than its entry says")
        raw: bytes = _decompressor().decompress(stored)
    except zstandard.ZstdError as error:
        raise CorruptError(f"a compressed chunk does not expand: {error}") from error
    if len(raw) != raw_size:
        raise CorruptError("a compressed chunk expands to another size than its entry says")
    return raw


def _compressor() -> zstandard.ZstdCompressor:
    found: zstandard.ZstdCompressor | None = getattr(_local, "compressor", None)
    if found is None:
        found = _local.compressor = zstandard.ZstdCompressor(level=LEVEL)
    return found


def _decompressor() -> zstandard.ZstdDecompressor:
    found: zstandard.ZstdDecompressor | None = getattr(_local, "decompressor", None)
    if found is None:
        found = _local.decompressor = zstandard.ZstdDecompressor()
    return found
