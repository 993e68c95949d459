"""A request that is not served, as OpenAI's clients expect to be told."""

from aster_jax.data import visible


class Refusal(Exception):
    """Turned into an error answer: HTTP status, message, OpenAI's code and the parameter."""

    def __init__(
        self, status: int, message: str, code: str | None = None, param: str | None = None,
        retry_s: float = 0.0,
    ):  # fmt: skip
        super().__init__(message)
        self.status, self.code, self.param, self.retry_s = status, code, param, retry_s

    @property
    def body(self) -> dict:
        """The JSON of the answer."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = "rate_limit_error" if self.status == 429 else kind
        # Both may quote the request, and half of a surrogate pair cannot be sent back.
        message, param = visible.escaped(str(self)), self.param and visible.escaped(self.param)
        error = {"message": message, "type": kind, "param": param, "code": self.code}
        return {"error": error}


def bad(param: str | None, message: str, code: str | None = None) -> Refusal:
    """A 400 about one parameter."""
    return Refusal(400, message, code or "invalid_value", param)
