"""`python -m aster_jax.demos.convert IN OUT --format=messages`: demonstrations from one form to another.

IN is a file that `demos.source` takes (or `demos/transcripts.jsonl` of a run), OUT ends in
.jsonl or .parquet. Rows that are no usable demonstration are listed on standard error.
"""

import argparse
import sys

from aster_jax.demos import tables
from aster_jax.errors import InputError


def main() -> None:
    """Convert one file."""
    parser = argparse.ArgumentParser(prog="python -m aster_jax.demos.convert", description=__doc__)
    parser.add_argument("source", metavar="IN", help="a .jsonl, .json or .parquet file")
    parser.add_argument("target", metavar="OUT", help="a .jsonl or .parquet file to write")
    parser.add_argument("--format", default="messages", choices=tables.FORMATS, dest="form")
    asked = parser.parse_args()
    try:
        made, skipped = tables.load(asked.source)
        tables.save(asked.target, made, asked.form)
    except InputError as e:
        sys.exit(f"aster_jax: {e}")
    for row in skipped:
        print(f"{asked.source} row {row.row} is left out: {row.reason}", file=sys.stderr)
    print(f"{len(made)} demonstrations in {asked.target} as {asked.form}, {len(skipped)} left out")


if __name__ == "__main__":
    main()
