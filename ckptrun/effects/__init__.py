"""The effect ledger: what the job did to the outside world, and how that is brought in step with its memory.

`ledger` says what a ledger can do; `sqlite`, `postgresql` and `redis_server` are three. `plan` decides, `book` keeps,
`settling` carries out what the plan says by workers (`worker`). docs/design/effects.md is the contract.
"""
