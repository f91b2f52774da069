"""Run any long Python job so that a crash or a lost machine costs seconds, not the run."""

__version__ = "0.1.0.dev0"
