"""The composition root: the only package that knows every other, a module for each kind of thing a user asks.

``run`` starts a job; ``requests`` asks a live run; ``queries`` reads stores and diaries; ``doctor`` looks at
the machine. Called by ``cli`` with settings; returns plain data (JSON) or an exit code, and prints nothing.
"""
