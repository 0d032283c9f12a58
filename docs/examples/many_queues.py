"""One process, many queues: a ConsumerSet, as Celery's workers used it."""

import sys

from carrot.connection import BrokerConnection
from carrot.messaging import ConsumerSet, Publisher

QUEUES = {
    "images": {"exchange": "tasks", "exchange_type": "topic", "binding_key": "image.#"},
    "mails": {"exchange": "tasks", "exchange_type": "topic", "binding_key": "mail.#"},
}


def on_task(message_data, message):
    print(f"{message.delivery_info['routing_key']:13} {message_data['task']}")
    message.ack()


def main(url):
    with (
        BrokerConnection(url) as connection,
        ConsumerSet(connection, from_dict=QUEUES, callbacks=[on_task]) as workers,
    ):
        workers.qos(prefetch_count=10)
        with Publisher(connection, exchange="tasks", exchange_type="topic") as tasks:
            tasks.send({"task": "make a thumbnail"}, routing_key="image.resize")
            tasks.send({"task": "send the invoice"}, routing_key="mail.invoice")
        workers.wait(limit=2)


if __name__ == "__main__":
    main(*sys.argv[1:] or ["memory://"])
