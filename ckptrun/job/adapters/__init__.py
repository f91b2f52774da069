"""Idempotency keys for the clients that jobs use: each module needs its library, and nothing else.

A request inside an effect gets keys of that effect, so that a retry of the effect repeats them; any other gets the key
of its step, which is named by method and address: see `ckptrun.job.effects.key`.
"""
