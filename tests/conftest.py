"""What all tests share."""

import hypothesis
import pytest

# Before anything imports it: its assertions shall tell what they compared.
pytest.register_assert_rewrite("carrot.testing.contract")

pytest_plugins = ["tests.differential.options", "tests.servers.fixtures"]

# How long an example takes says more about the machine than about carrot.
hypothesis.settings.register_profile("carrot", deadline=None, print_blob=True)
hypothesis.settings.load_profile("carrot")
