"""Tests against real RabbitMQ servers."""
