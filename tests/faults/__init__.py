"""What goes wrong between this library and a real RabbitMQ, and must do no harm."""
