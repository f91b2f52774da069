"""The memory of GPUs: found, moved into the machine's memory before a dump, and moved back after it.

Called by the ready-made hook ``cuda``, by the doctor, and by the supervisor, which asks `finding` alone. CRIU knows
nothing of it: a process whose CUDA state is checkpointed holds no device, and what was on the GPU is memory like any
other.
"""
