"""Where the real test assets lie; a test that needs an absent one skips and says so."""

import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"


def path(relative: str) -> pathlib.Path:
    """The asset's path, or a skip with the reason when this checkout has no assets."""
    found = ROOT / relative
    if not found.exists():
        pytest.skip(f"test asset {relative} is not beside this checkout (../shared/data)")
    return found
