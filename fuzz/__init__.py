"""Fuzzing of everything that reads foreign bytes or arrays: `python -m fuzz --help`, `docs/hardening.md`."""
