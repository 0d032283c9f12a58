"""What all tests share."""

import gc
from collections.abc import Iterator

import hypothesis
import pytest

# Before anything imports it: its assertions shall tell what they compared.
pytest.register_assert_rewrite("carrot.testing.contract")

pytest_plugins = ["tests.differential.options", "tests.servers.fixtures"]

# How long an example takes says more about the machine than about carrot.
hypothesis.settings.register_profile("carrot", deadline=None, print_blob=True)
hypothesis.settings.load_profile("carrot")


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Keep the garbage collector out of a test that counts calls.

    It runs finalizers of what other tests left, in the midst of whatever allocates.
    """
    gc.disable()
    yield
    gc.enable()
