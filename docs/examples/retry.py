"""Try again later: a rejected message waits in a second queue, then comes back."""

import sys

from carrot.connection import BrokerConnection
from carrot.messaging import Consumer, Publisher

TRIES = 3
TO_LATER = {  # what is rejected goes to the queue "orders.later"
    "x-dead-letter-exchange": "",
    "x-dead-letter-routing-key": "orders.later",
}
BACK_AGAIN = {  # after 200 milliseconds it goes back to "orders"
    "x-message-ttl": 200,
    "x-dead-letter-exchange": "",
    "x-dead-letter-routing-key": "orders",
}


class Orders(Consumer):
    queue = "orders"
    queue_arguments = TO_LATER

    def receive(self, message_data, message):
        deaths = message.headers.get("x-death", [])
        tries = 1 + sum(d["count"] for d in deaths if d["reason"] == "rejected")
        if tries < TRIES:
            print(f"try {tries} of order {message_data['order']}: the shop is closed")
            message.reject()
        else:
            print(f"try {tries} of order {message_data['order']}: delivered")
            message.ack()


def main(url):
    with BrokerConnection(url) as connection:
        # Nobody consumes this queue.
        Consumer(connection, queue="orders.later", queue_arguments=BACK_AGAIN)
        orders = Orders(connection)
        with Publisher(connection, exchange="", routing_key="orders") as publisher:
            publisher.send({"order": 7})
        orders.wait(limit=TRIES)


if __name__ == "__main__":
    main(*sys.argv[1:] or ["memory://"])
