#!/usr/bin/python3
"""The daemon over a fake engine on the wire: wire_tests.py."""
import wire_tests  # noqa: F401
from wire_harness import main

main(fake=True)
