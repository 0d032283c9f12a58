"""Private RabbitMQ servers for the tests, started when a test needs one.

Fixtures (``tests/servers/fixtures.py``), each a
:class:`~tests.servers.vhost.VirtualHost`: a virtual host of the test's own on
a server that the whole run shares.

``rabbitmq``
    runs the test once on each server: ``distribution`` (what the machine's
    distribution installs: 3.10 on Debian 12) and ``4.0``.
``every_rabbitmq``
    runs it once, with a list of virtual hosts, one on each of these servers: for
    tests that wait for long, and may do so for all of them at the same time.
``rabbitmq_newest``
    runs it once, on 4.0, or on the distribution's where there is no 4.0.
``rabbitmq_of_class``, ``rabbitmq_newest_of_class``
    the same, but one virtual host for all tests of a class: for those that use
    names of their own and leave nothing behind.
``rabbitmq_strict``
    4.0 that denies transient non-exclusive queues and global qos, as 4.3 does.

What they know: ``host port tls_port vhost userid password url tls_url
conninfo version certificates``. What they can do: ``ctl(*args)`` (rabbitmqctl,
half a second), ``eval(erlang)`` (a millisecond), ``messages(queue)``,
``consumers(queue)``, ``delete_queue``, ``add_user``, ``set_policy``,
``connection_count()``, ``close_connections()``, ``blocked()`` (memory alarm
while the ``with`` block lasts), ``tls_port_of("expired")``, ``another()`` (one
more virtual host, for hypothesis). A test may ``stop() start() kill() restart()``
the server: the next one finds it up again.

::

    def test_sends(rabbitmq, proxy):
        with BrokerConnection(rabbitmq.url) as connection: ...
        link = proxy(rabbitmq)          # a TCP proxy with faults: tests/proxy.py
        with BrokerConnection(link.url) as connection:
            link.cut()

A test whose server cannot be had skips; under ``CI`` it fails unless another
server ran it, and with ``CARROT_REQUIRE_SERVERS=1`` it fails always.
``CARROT_RABBITMQ40_TREE`` names the Debian 13 tree that 4.0 is run from.
"""
