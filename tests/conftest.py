"""Its place makes `tests/` a place to import from: ``from support.run import Lab``."""
