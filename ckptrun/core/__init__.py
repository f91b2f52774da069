"""The pure core: what happens, what is decided, what is to be done. No clock, no I/O, no threads."""
