"""Everything about CRIU: finding or providing it, dumping into staging, restoring, reading its images.

Called by the supervisor. It starts programs only through the `Spawn` callable it is given, so it knows nothing of
capsules; and it hands images on as `ImageStream`s, so it knows nothing of stores.
"""
