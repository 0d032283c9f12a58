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
CREATE TABLE IF NOT EXISTS message (number INTEGER PRIMARY KEY, queue, holder, redelivered,
    exchange, routing_key, content_type, content_encoding, body);
"""
ROUTE = """
SELECT queue FROM binding JOIN exchange ON exchange.name = binding.exchange
    WHERE exchange.name = :exchange AND (type = 'fanout' OR routing_key = :key)
UNION SELECT name FROM queue WHERE :exchange = '' AND name = :key
"""
PUT = "INSERT INTO message VALUES (NULL, ?, NULL, 0, ?, ?, ?, ?, ?)"
TAKE = """
UPDATE message SET holder = ? WHERE number =
    (SELECT min(number) FROM message WHERE queue = ? AND holder IS NULL)
RETURNING number, redelivered, exchange, routing_key, content_type, content_encoding, body
"""
GIVE_BACK = "UPDATE message SET holder = NULL, redelivered = 1 WHERE {} = ?"
COUNT = "SELECT count(*) FROM message WHERE queue = ? AND holder IS NULL"
PURGE = "DELETE FROM message WHERE queue = ? AND holder IS NULL RETURNING number"


class Link:
    """What establish_connection() returns: the file, and the backends that use it."""

    def __init__(self, path):
        self.database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.database.executescript(SCHEMA)
        self.backends = []

    def drain_events(self, timeout=None):
        deadline = None if timeout is None else time.monotonic() + timeout
        while not any(backend.deliver() for backend in self.backends):
            if deadline is not None and time.monotonic() > deadline:
                raise DrainTimeout(f"no message within {timeout} seconds")
            time.sleep(0.01)  # the file tells nobody about news

    def close(self):
        self.database.close()


class Backend(BaseBackend):
    """One channel. The connection's hostname is the path of the file."""

    def __init__(self, connection, **kwargs):
        super().__init__(connection, **kwargs)
        self.name = str(uuid4())  # marks the messages that this channel holds
        self.consumers = {}
        self.link = None

    def establish_connection(self):
        return Link(self.connection.hostname)

    def close_connection(self, link):
        link.close()

    def open(self):
        if self.link is None:
            self.link = self.connection.connection  # connects at the first use
            self.link.backends.append(self)
        return self.link

    def run(self, statement, *parameters):
        return self.open().database.execute(statement, *parameters).fetchall()

    # -- declaring

    def queue_declare(self, queue, **settings):
        self.run("INSERT OR IGNORE INTO queue VALUES (?)", [queue])

    def exchange_declare(self, exchange, type, **settings):
        self.run("INSERT OR IGNORE INTO exchange VALUES (?, ?)", [exchange, type])

    def queue_bind(self, queue, exchange, routing_key, arguments=None):
        binding = [exchange, routing_key, queue]
        self.run("INSERT OR IGNORE INTO binding VALUES (?, ?, ?)", binding)

    def queue_purge(self, queue):
        return len(self.run(PURGE, [queue]))

    # -- sending

    def prepare_message(self, message_data, delivery_mode, **properties):
        properties.pop("priority", None)
        return BaseMessage(self, body=message_data, **properties)

    def publish(self, message, exchange, routing_key, **flags):
        body = [message.content_type, message.content_encoding, message.body]
        for (queue,) in self.run(ROUTE, {"exchange": exchange, "key": routing_key}):
            self.run(PUT, [queue, exchange, routing_key, *body])

    # -- receiving

    def get(self, queue, no_ack=False):
        for row in self.run(TAKE, [self.name, queue]):
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
                    "message_count": self.run(COUNT, [queue])[0][0],
                },
            )
        return None

    def declare_consumer(self, queue, no_ack, callback, consumer_tag, nowait=False):
        self.open()
        self.consumers[consumer_tag] = queue, no_ack, callback

    def cancel(self, consumer_tag):
        self.consumers.pop(consumer_tag, None)

    def deliver(self):
        """Deliver one message; return whether there was one."""
        for consumer_tag, (queue, no_ack, callback) in list(self.consumers.items()):
            message = self.get(queue, no_ack)
            if message is not None:
                message.delivery_info["consumer_tag"] = consumer_tag
                callback(message)
                return True
        return False

    def consume(self, limit=None):
        count = 0
        while not limit or count < limit:
            self.link.drain_events()
            count += 1
            yield True

    # -- settling

    def ack(self, delivery_tag):
        if isinstance(delivery_tag, int):  # else the message was made by hand
            self.run("DELETE FROM message WHERE number = ?", [delivery_tag])

    def reject(self, delivery_tag):
        self.ack(delivery_tag)

    def requeue(self, delivery_tag):
        if isinstance(delivery_tag, int):
            self.run(GIVE_BACK.format("number"), [delivery_tag])

    def close(self):
        if self.link is not None:
            self.run(GIVE_BACK.format("holder"), [self.name])
            self.link.backends.remove(self)
            self.link = None
