"""Benchmarks: ``python -m experiments bench NAME``, one file each.

A benchmark is a module here that binds `PRESETS` and `groups`. What it compares it says
in `groups(preset)`; how that is timed, stored, printed and drawn is in `measuring` and
`recording`, the same for all. One that judges something else than time binds
`study(preset, folder)` and `write(folder)` in place of `groups`.
"""
