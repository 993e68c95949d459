"""Real recorded tool calls give the recorded output."""

import json

import pytest

from aster_jax.tools import Executor, ToolConfig
from tests import shared_data

CONFIG = ToolConfig(wall_limit_s=60.0)


def read(name: str) -> list[dict]:
    with open(shared_data.path(f"trajectories/{name}"), encoding="utf-8") as rows:
        return [json.loads(row) for row in rows]


def test_tora_programs_print_what_was_recorded():
    rows = read("tora_34b_gsm8k.jsonl")
    assert len(rows) == 330
    with Executor(CONFIG) as tools:
        sessions = [tools.open(seed=0) for _ in rows]
        futures = [
            tools.submit(session, row["program"])
            for session, row in zip(sessions, rows, strict=True)
        ]
        wrong = [
            (row["idx"], future.result().stdout, row["recorded_stdout"])
            for row, future in zip(rows, futures, strict=True)
            if future.result().stdout.strip() != row["recorded_stdout"].strip()
        ]
    assert not wrong


@pytest.mark.parametrize("episode", [1, 2, 3])
def test_episodes_with_state_give_the_recorded_outputs(episode):
    rows = {row["episode"]: row for row in read("ns_tools_1_3.jsonl")}
    with Executor(ToolConfig(wall_limit_s=60.0, last_value="pretty")) as tools:
        session = tools.open(seed=0)
        for step in rows[episode]["steps"]:
            assert tools.run(session, step["code"]).text.strip() == step["output"].strip()
