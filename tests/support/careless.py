"""A ckptrun that does not look what it may: what it lacks shows where it is needed."""

CARELESS = """
import sys
from ckptrun.criu import ownrights
ownrights.missing_capabilities = lambda *_: []
from ckptrun.cli.main import main
sys.exit(main())
"""
"""A program of Python's; its words are ckptrun's."""
