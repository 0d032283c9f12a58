"""Ask, and get an answer: a queue for the replies, and a number for each question."""

import sys
import threading

from carrot.connection import BrokerConnection
from carrot.messaging import Consumer, Publisher
from carrot.utils import gen_unique_id


class Calculator(Consumer):
    """Adds up numbers, and answers where the question says."""

    queue = "calculator"
    auto_delete = True

    def __init__(self, connection):
        super().__init__(connection)
        # The default exchange routes to the queue that the routing key names.
        self.answers = Publisher(connection, exchange="")

    def receive(self, message_data, message):
        self.answers.send(
            {"sum": sum(message_data["add"])},
            routing_key=message.properties["reply_to"],
            correlation_id=message.properties["correlation_id"],
        )
        message.ack()


def ask(connection, numbers):
    """Send a question and wait for its answer."""
    with (
        Consumer(connection, queue="", exclusive=True, auto_ack=True) as replies,
        Publisher(connection, exchange="") as questions,
    ):
        number = gen_unique_id()
        questions.send(
            {"add": numbers},
            routing_key=Calculator.queue,
            reply_to=replies.queue,
            correlation_id=number,
            mandatory=True,  # an error if nobody is there to answer
        )
        questions.flush()
        answers = {}

        def collect(message_data, message):
            answers[message.properties["correlation_id"]] = message_data

        replies.register_callback(collect)
        for _ in replies.iterconsume():
            if number in answers:
                return answers[number]["sum"]


def main(url):
    with BrokerConnection(url) as here, BrokerConnection(url) as there:
        calculator = Calculator(there)
        thread = threading.Thread(target=calculator.wait, kwargs={"limit": 2})
        thread.start()
        print("1 + 2 + 3 =", ask(here, [1, 2, 3]))
        print("20 + 22 =", ask(here, [20, 22]))
        thread.join()


if __name__ == "__main__":
    main(*sys.argv[1:] or ["memory://"])
