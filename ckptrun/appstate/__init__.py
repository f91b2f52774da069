"""The job's state: a log of batches in a file, an index of it in memory, and how both go back with a checkpoint.

docs/design/state.md describes it. Called by ``ckptrun.supervisor``; it must not know channels, stores or machines.
"""
