"""The effect ledger: what the job did to the outside world, and how that is brought in step with its memory.

`ledger` says what a ledger can do; `sqlite`, `postgresql` and `redis_server` are three. `plan` decides, `book` keeps
what the job asks (`calls`) and `works` what is done behind its back; `settling` carries that out by workers (`worker`).
docs/design/effects.md is the contract.
"""
