"""The supervisor: one loop that feeds events to the pure core and executes its commands with worker threads.

Called by ``app.run``. It is the shell around `ckptrun.core.machine`: it decides nothing that the core could.
"""
