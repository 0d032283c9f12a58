"""The manual's page of behaviours is what a run of today would write."""

from tests.contract.behaviour_table import HEAD, PAGE, behaviours


def test_the_page_is_current() -> None:
    """The page has every behaviour of the suite, and every broker has each."""
    rows = "".join(
        f"   * - {promise}\n" + 3 * "     - yes\n" for promise in behaviours().values()
    )
    assert PAGE.read_text(encoding="utf-8") == HEAD + rows
