"""The capsule: the fresh PID and mount namespace one incarnation of the job lives in.

Called by the supervisor. It knows nothing of CRIU, stores or checkpoints: it makes the capsule, starts programs in it,
and carries the job's standard streams.
"""
