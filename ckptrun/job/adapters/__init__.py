"""What jobs' libraries need to work with `ckptrun.job`: each module needs its library, and nothing else.

For clients (`requests`, `httpx`, `boto3`) idempotency keys: a request inside an effect gets keys of that effect, so
that a retry of the effect repeats them; any other gets the key of its step, which is named by method and address: see
`ckptrun.job.effects.key`. For training frameworks (`huggingface`, `lightning`) a callback each: see docs/job.md. For
`langgraph` a checkpointer that keeps its threads in the job's state.
"""
