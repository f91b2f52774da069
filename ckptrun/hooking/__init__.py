"""Hooks: programs that bring in step what a process image does not hold. docs/design/hooks.md is the design.

``app`` finds them (`discovery`), ``supervisor`` has them run at the phases of a run (`phases`). Nothing here knows
what a checkpoint is made of.
"""
