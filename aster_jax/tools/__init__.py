"""A live, isolated, stateful Python interpreter per trajectory; results are values.

    from aster_jax.tools import Executor, ToolConfig
    with Executor(ToolConfig(wall_limit_s=10)) as executor:
        session = executor.open(seed=0)
        result = executor.run(session, "x = 2**10\\nx")  # .status "ok", .text "1024\\n"

Importing this package imports neither JAX nor numpy: it is useful on its own.
"""

from aster_jax.tools.config import ToolConfig
from aster_jax.tools.executor import Executor, Session
from aster_jax.tools.result import ToolResult

__all__ = ["Executor", "Session", "ToolConfig", "ToolResult"]
