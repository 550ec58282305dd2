"""The publish gate: checks that a finished run must pass, and the figures they compare."""
