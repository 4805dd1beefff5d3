"""Benchmarks, run by hand: `python -m benchmarks list`, `python -m benchmarks run NAME`.

Each scenario is a module here with `SUMMARY` and `run(arguments)`, which returns records.
"""
