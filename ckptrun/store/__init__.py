"""Where committed checkpoints live: a directory or an S3-compatible bucket. ``FORMAT.md`` fixes the bytes.

The entry points are in `ckptrun.store.repository`. The package imports core and errors, nothing else of ckptrun.
"""
