"""The tables of an evaluation: every score and every row of every chunk.

Role: Parquet files of one recording each, and their joining, row group by row group, so that memory does not grow with their number.
Depends on pyarrow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from robot_bringup.evaluation.lanes import Chunks, Scores
from robot_bringup.evaluation.open_loop import Errors
from whetstone.contracts import REWARD_VALUES
from whetstone.profile import RobotProfile

SCORES, CHUNKS = "scores.parquet", "chunks.parquet"

_SCORES = pa.schema(
    [
        ("recording", pa.string()),
        ("model", pa.string()),
        ("control", pa.string()),
        ("stamp", pa.int64()),
        *((name, pa.float64()) for name in REWARD_VALUES),
        ("valid", pa.bool_()),
        ("reason", pa.string()),
        ("latency", pa.float64()),
    ]
)
"""A row for each frame set: control: empty: as it was; stamp: ns; latency: s, null where it was not timed by itself."""


class Writer:
    """The tables of the recordings of one source, in `folder`; a context manager."""

    def __init__(self, folder: Path, profile: RobotProfile) -> None:
        self._names = (*profile.joint_names, "gripper")
        columns = [(f"{kind}/{name}", pa.float32()) for kind in ("chunk", "error", "hold_error") for name in self._names]
        whose = [("recording", pa.string()), ("policy", pa.string()), ("stamp", pa.int64()), ("row", pa.int32())]
        self._chunk_schema = pa.schema([*whose, *columns])
        """A row for each row of each chunk: rad and gripper opening; error, hold_error: see open_loop.Errors."""
        self._scores = parquet.ParquetWriter(folder / SCORES, _SCORES)
        self._chunks = parquet.ParquetWriter(folder / CHUNKS, self._chunk_schema)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._scores.close()
        self._chunks.close()

    def scores(self, recording: str, model: str, control: str, scores: Scores) -> None:
        count = len(scores.stamps)
        self._scores.write_table(
            pa.table(
                [
                    [recording] * count,
                    [model] * count,
                    [control] * count,
                    scores.stamps,
                    *(scores.values[name] for name in REWARD_VALUES),
                    scores.valid,
                    list(scores.reasons),
                    pa.array(scores.seconds, pa.float64(), from_pandas=True),
                ],
                schema=_SCORES,
            )
        )

    def chunks(self, recording: str, policy: str, chunks: Chunks, errors: Errors) -> None:
        decisions, horizon = chunks.actions.shape[:2]
        count = decisions * horizon
        parts = (chunks.actions, errors.policy, errors.hold)
        self._chunks.write_table(
            pa.table(
                [
                    [recording] * count,
                    [policy] * count,
                    np.repeat(chunks.stamps, horizon),
                    np.tile(np.arange(horizon, dtype=np.int32), decisions),
                    *(part[..., column].ravel().astype(np.float32) for part in parts for column in range(len(self._names))),
                ],
                schema=self._chunk_schema,
            )
        )


def join(parts: Sequence[tuple[Path, Callable[[str], str]]], target: Path) -> None:
    """The rows of tables of one schema after each other, their recordings under the names that each part's function gives them. Raises
    OSError."""
    writer: parquet.ParquetWriter | None = None
    try:
        for part, name in parts:
            with parquet.ParquetFile(part) as file:
                writer = writer or parquet.ParquetWriter(target, file.schema_arrow)
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group)
                    names = pa.array([name(own) for own in table["recording"].to_pylist()], pa.string())
                    writer.write_table(table.set_column(0, table.schema.field(0), names))
    finally:
        if writer is not None:
            writer.close()
