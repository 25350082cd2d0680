#!/usr/bin/python3
"""The real daemon on the wire: wire_tests.py, but for what needs the fake engine."""
import wire_tests  # noqa: F401
from wire_harness import main

main(fake=False)
