"""The command line: parse, make settings, call ``ckptrun.app``, print. No logic of its own."""
