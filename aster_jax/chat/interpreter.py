"""One interpreter for a whole conversation, behind the interface of the tool's executor."""


class Interpreter:
    """Variables live on from question to question, until `reset` or until they are lost.

    A trajectory closes its session when it ends; here that closes one only if its cell
    still runs (an interrupted call) or the tool has lost it.

    Args:
      executor: `aster_jax.tools.Executor`.
    """

    def __init__(self, executor):
        self._executor, self._session, self._last = executor, None, None
        self.restarts = 0  # sessions that took their variables with them

    def open(self, seed: int):
        """The session there is, or a new one."""
        if self._session is None:
            self._session = self._executor.open(seed=seed)
        return self._session

    def submit(self, session, code: str):
        """As the executor's."""
        self._last = self._executor.submit(session, code)
        return self._last

    def close(self, session) -> None:
        """Keep the session for the next question, unless it is of no use any more."""
        call = self._last
        if call is None:
            return
        is_lost = not call.done() or call.exception() is not None or call.result().is_infra
        if is_lost:
            self.restarts += 1
            self.reset()

    def reset(self) -> None:
        """Forget all variables."""
        session, self._session, self._last = self._session, None, None
        if session is not None:
            self._executor.close(session)
