"""How fast carrot and its peers are: ``python -m tests.bench``.

For people, not for the test suite, which only sees that it works. Each client
runs in a process of its own; the clients take turns, round after round, so
that whatever else the machine does falls on all of them.

================  =============================================================
``plan``          what is measured: sizes, clients, jobs
``target``        the broker: a private one, or the one of ``--url``
``peers``         how each client publishes and consumes, as its manual says
``raw``           the broker's own limit: ready-made frames down a socket
``native``        rabbitmq-c, compiled from ``rabbitmq_c.c``
``worker``        the process that a client runs in
``runner``        takes turns, collects samples
``results``       medians, spreads, ratios, and what they were meant to be
``report``        tables for the terminal and for the docs
``charts``        SVG
``profiling``     where carrot's own time goes
================  =============================================================
"""
