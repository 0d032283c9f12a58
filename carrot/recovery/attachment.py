"""A connection, as one inner backend sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from carrot.exceptions import ConnectionClosed, ConnectionLost

if TYPE_CHECKING:
    from carrot.recovery.session import Session

__all__ = ["Attachment"]


class Attachment:
    """The :class:`~carrot.connection.BrokerConnection`, fixed to one connection of the driver.

    A backend asks its connection for the driver's whenever it needs it. With
    the real one it would find itself on the successor of a lost connection,
    with a channel that nobody restored. Here it gets the one it was made for
    or :exc:`~carrot.exceptions.ConnectionLost`. Everything else is the real
    connection's, whose instance it says it is.
    """

    __slots__ = ("__generation", "__session")

    def __init__(self, session: Session, generation: int) -> None:
        object.__setattr__(self, "_Attachment__session", session)
        object.__setattr__(self, "_Attachment__generation", generation)

    def __repr__(self) -> str:
        return repr(self.__session.connection)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__session.connection, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__session.connection, name, value)

    @property  # type: ignore[misc]
    def __class__(self) -> type[Any]:
        return type(self.__session.connection)

    @property
    def connection(self) -> Any:
        """The driver's connection; ``None`` once closed.

        :raises ConnectionLost: it was lost.
        """
        session = self.__session
        self.__check()
        # The property of the real connection: subclasses override it.
        driver = session.connection.connection
        self.__check()
        return driver

    def __check(self) -> None:
        session = self.__session
        if session.state == "closed" or session.is_worker():
            return
        if session.generation != self.__generation or session.state == "recovering":
            raise ConnectionLost(f"the connection to {session.host} was lost")

    def get_channel(self) -> Any:
        """Open a channel and return the driver's object for it."""
        return self.__open().channel()

    def drain_events(self, timeout: float | None = None) -> Any:
        """Wait for one message and run its consumer's callbacks."""
        session = self.__session
        driver = session.driver
        if driver is None or session.generation != self.__generation:
            driver = self.__open()
        return driver.drain_events(timeout=timeout)

    def __open(self) -> Any:
        driver = self.connection
        if driver is None:
            raise ConnectionClosed(
                f"the connection to {self.__session.host} is closed;"
                " call its connect() to use it again"
            )
        return driver
