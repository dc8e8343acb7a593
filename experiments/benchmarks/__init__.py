"""Benchmarks: ``python -m experiments bench NAME``, one file each.

A benchmark is a module here that binds `PRESETS` and `groups`. What it compares it says
in `groups(preset)`; how that is timed, stored, printed and drawn is in `measuring` and
`recording`, the same for all.
"""
