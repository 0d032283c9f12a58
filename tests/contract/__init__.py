"""The contract suite of carrot.testing, run over every backend at hand."""

import pytest

pytest.register_assert_rewrite("carrot.testing.contract")
