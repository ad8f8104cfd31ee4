"""What can go wrong, as exceptions."""


class LongtakeError(Exception):
    """Base of every error of this package."""


class ProtocolError(LongtakeError):
    """The server sent something that is not its protocol."""


class ConnectionLost(LongtakeError):
    """The connection was lost and could not be taken up again in time."""


class StreamError(LongtakeError):
    """The server refused a message or ended a stream.

    Attributes:
        code: Machine-readable name, such as ``unsupported_size``.
        message: What was seen and what is allowed.
        param: The field at fault, if one is.
        retryable: Whether the same may work later.
        fatal: Whether the stream on this connection is over.
    """

    def __init__(
        self,
        code: str,
        message: str,
        param: str | None = None,
        *,
        retryable: bool = False,
        fatal: bool = False,
    ) -> None:
        super().__init__(f"{message} [{code}]")
        self.code = code
        self.message = message
        self.param = param
        self.retryable = retryable
        self.fatal = fatal


class ChangeSuperseded(LongtakeError):
    """A later prompt change took this one's place before it showed."""


class ApiError(LongtakeError):
    """A REST call was answered with an error.

    Attributes:
        status: HTTP status.
        code: Machine-readable name, such as ``video_not_ready``.
        message: What was seen and what is allowed.
        param: The field at fault, if one is.
        retry_after_s: When to come back, if the server said so.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{message} [{status} {code}]")
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
