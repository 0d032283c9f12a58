"""The tests of carrot. ``tests/run`` installs what they need and runs them all."""
