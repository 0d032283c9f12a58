"""A backend of our own: queues in an SQLite file, shared by processes, no server."""

import sqlite3
import time
from uuid import uuid4

from carrot.backends.base import BaseBackend, BaseMessage
from carrot.exceptions import DrainTimeout

SCHEMA = """
CREATE TABLE IF NOT EXISTS queue (name PRIMARY KEY);
CREATE TABLE IF NOT EXISTS exchange (name PRIMARY KEY, type);
CREATE TABLE IF NOT EXISTS binding (exchange, routing_key, queue,
    UNIQUE (exchange, routing_key, queue));
CREATE TABLE IF NOT EXISTS message (id INTEGER PRIMARY KEY, queue, holder, redelivered,
    exchange, routing_key, content_type, content_encoding, body);
"""
ROUTE = """
SELECT queue FROM binding JOIN exchange ON exchange.name = binding.exchange
    WHERE exchange.name = :exchange AND (type = 'fanout' OR routing_key = :key)
UNION SELECT name FROM queue WHERE :exchange = '' AND name = :key
"""
TAKE = """
UPDATE message SET holder = ? WHERE id =
    (SELECT min(id) FROM message WHERE queue = ? AND holder IS NULL)
RETURNING id, redelivered, exchange, routing_key, content_type, content_encoding, body
"""
RETURN = "UPDATE message SET holder = NULL, redelivered = 1 WHERE {} = ?"
BIND = "INSERT OR IGNORE INTO binding VALUES (?, ?, ?)"


class Link:
    """What establish_connection() returns: the file, and who consumes from it."""

    def __init__(self, path):
        self.database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.database.executescript(SCHEMA)
        self.backends = []

    def drain_events(self, timeout=None):
        deadline = None if timeout is None else time.monotonic() + timeout
        while not any(backend.deliver_one() for backend in list(self.backends)):
            if deadline is not None and time.monotonic() > deadline:
                raise DrainTimeout(f"no message within {timeout} seconds")
            time.sleep(0.01)  # SQLite tells nobody about news

    def close(self):
        self.database.close()


class Backend(BaseBackend):
    """One channel; the connection's hostname is the path of the file."""

    def __init__(self, connection, **kwargs):
        super().__init__(connection, **kwargs)
        self.holder = str(uuid4())  # marks the messages that this channel holds
        self.consumers = {}

    def establish_connection(self):
        return Link(self.connection.hostname)

    def close_connection(self, link):
        link.close()

    @property
    def link(self):
        link = self.connection.connection
        if self not in link.backends:
            link.backends.append(self)
        return link

    def run(self, statement, parameters=()):
        return self.link.database.execute(statement, parameters).fetchall()

    # -- declaring

    def queue_declare(
        self, queue, durable, exclusive, auto_delete, arguments=None, warn_if_exists=False
    ):
        self.run("INSERT OR IGNORE INTO queue VALUES (?)", [queue])

    def exchange_declare(self, exchange, type, durable, auto_delete):
        self.run("INSERT OR IGNORE INTO exchange VALUES (?, ?)", [exchange, type])

    def queue_bind(self, queue, exchange, routing_key, arguments=None):
        self.run(BIND, [exchange, routing_key, queue])

    def queue_purge(self, queue):
        ready = "DELETE FROM message WHERE queue = ? AND holder IS NULL RETURNING id"
        return len(self.run(ready, [queue]))

    # -- sending

    def prepare_message(
        self,
        message_data,
        delivery_mode,
        priority=None,
        content_type=None,
        content_encoding=None,
    ):
        return content_type, content_encoding, message_data

    def publish(
        self, message, exchange, routing_key, mandatory=None, immediate=None, headers=None
    ):
        for (queue,) in self.run(ROUTE, {"exchange": exchange, "key": routing_key}):
            self.run(
                "INSERT INTO message VALUES (NULL, ?, NULL, 0, ?, ?, ?, ?, ?)",
                [queue, exchange, routing_key, *message],
            )

    # -- receiving

    def get(self, queue, no_ack=False):
        for row in self.run(TAKE, [self.holder, queue]):
            number, redelivered, exchange, routing_key, content_type, encoding, body = row
            if no_ack:
                self.ack(number)
            return BaseMessage(
                self,
                body=body,
                delivery_tag=number,
                content_type=content_type,
                content_encoding=encoding,
                delivery_info={
                    "exchange": exchange,
                    "routing_key": routing_key,
                    "redelivered": bool(redelivered),
                },
            )

    def ack(self, delivery_tag):
        self.run("DELETE FROM message WHERE id = ?", [delivery_tag])

    reject = ack

    def requeue(self, delivery_tag):
        self.run(RETURN.format("id"), [delivery_tag])

    def declare_consumer(self, queue, no_ack, callback, consumer_tag, nowait=False):
        self.consumers[consumer_tag] = queue, no_ack, callback

    def cancel(self, consumer_tag):
        self.consumers.pop(consumer_tag, None)

    def deliver_one(self):
        for queue, no_ack, callback in list(self.consumers.values()):
            message = self.get(queue, no_ack)
            if message is not None:
                callback(message)
                return True
        return False

    def consume(self, limit=None):
        count = 0
        while not limit or count < limit:
            self.link.drain_events()
            count += 1
            yield True

    def close(self):
        self.consumers.clear()
        self.run(RETURN.format("holder"), [self.holder])
        self.link.backends.remove(self)
