"""The in-memory broker and RabbitMQ, given the same random operations.

An operation is ``(slot, method, arguments)``: a slot is one of four channels,
two on each of two connections, which is opened again whenever it closes; the
method is one of :class:`carrot.broker.Channel`, or ``close_connection`` or
``wait``. After each operation both sides must have given the same answer or
error, sent the same to every channel, and have the same queues.

``operations.py`` draws operations; ``memory.py`` and ``server.py`` do them;
``comparing.py`` compares; ``replay.py`` runs a sequence that failed once more.

RabbitMQ's processes run side by side: where two of them send to a third within
one operation, the order is nobody's promise. Such operations are left out
(:attr:`~tests.differential.memory.MemorySide.is_racy`).
"""
