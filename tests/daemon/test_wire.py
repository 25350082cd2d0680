#!/usr/bin/python3
"""The real daemon on the wire: wire_answers.py, wire_features.py, wire_flags.py, wire_limits.py, but for what needs the fake engine."""
import wire_answers  # noqa: F401
import wire_features  # noqa: F401
import wire_flags  # noqa: F401
import wire_limits  # noqa: F401
from wire_harness import main

main(fake=False)
