"""What all tests share."""

import hypothesis

pytest_plugins = ["tests.servers.fixtures"]

# How long an example takes says more about the machine than about carrot.
hypothesis.settings.register_profile("carrot", deadline=None, print_blob=True)
hypothesis.settings.load_profile("carrot")
