"""LeRobotDataset v3.0 on disk: columns, pictures and text in and out.

Role: the file format alone, as lerobot 0.4 writes and reads it (info.json, stats.json, tasks, episodes and data in parquet, one mp4 for
many episodes of a camera); what the columns mean is not decided here. Needs pyarrow, for video PyAV, for pictures OpenCV; not lerobot.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from whetstone.errors import InputError
from whetstone.frames import decode, encode

VERSION = "v3.0"
CHUNKS_SIZE = 1000  # files in a folder
DATA_MB, VIDEO_MB = 100, 200  # a file that is larger gets no further episode
_DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
_EPISODES = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_INFO, _STATS, _TASKS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
_PICTURES = ("image", "video")
_INDICES = {"timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64", "task_index": "int64"}
_QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
_STATISTICS = ("min", "max", "mean", "std", "count", *_QUANTILES)


@dataclass(frozen=True)
class Feature:
    """A column. dtype: "float32", "int64", "bool", "image" (PNG in the table) or "video"; shape: (length,) or (height, width, 3)."""

    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...] | None = None

    @property
    def picture(self) -> bool:
        return self.dtype in _PICTURES


def picture_feature(dtype: str, height: int, width: int) -> Feature:
    """Of a camera."""
    return Feature(dtype, (height, width, 3), ("height", "width", "channels"))


class DatasetWriter:
    """Writes a dataset episode by episode, under a temporary name; `with` makes it final, or removes it where an error leaves the block.

    fps: rows per second; where it is a whole number it is written as one, as lerobot does. features: without the five index columns.
    chunks_size, data_mb, video_mb: when a new folder or file is begun. Raises InputError where `root` is taken or cannot be written.
    """

    def __init__(
        self,
        root: Path,
        fps: Fraction,
        features: Mapping[str, Feature],
        robot: str,
        chunks_size: int = CHUNKS_SIZE,
        data_mb: float = DATA_MB,
        video_mb: float = VIDEO_MB,
    ) -> None:
        self.root = root
        self._fps = fps
        self._features = dict(features)
        self._robot = robot
        self._chunks_size, self._data_mb, self._video_mb = chunks_size, data_mb, video_mb
        self._partial = root.parent / f".partial-{os.getpid()}-{root.name}"
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise InputError(f"{root} is there already: name a folder that is not")
        self._tasks: dict[str, int] = {}
        self._episodes: list[dict[str, Any]] = []
        self._rows = 0
        self._data = _Place()
        self._table: Any = None  # pyarrow.parquet.ParquetWriter of the file that is being filled
        self._videos = {key: _Video(self._fps, *feature.shape[:2]) for key, feature in self._features.items() if feature.dtype == "video"}
        try:
            shutil.rmtree(self._partial, ignore_errors=True)
            (self._partial / "meta").mkdir(parents=True)
        except OSError as error:
            raise self._cannot(error) from None

    def add_episode(
        self,
        columns: Mapping[str, np.ndarray],
        pictures: Mapping[str, Iterable[np.ndarray]],
        task: str,
        extra: Mapping[str, Any] | None = None,
    ) -> int:
        """Write one episode and return its index. columns: feature -> (rows, length) or (rows,); pictures: feature -> (height, width, 3)
        uint8 RGB of each row, read once; task: the instruction; extra: columns of ours for its line in meta/episodes."""
        try:
            return self._add(columns, pictures, task, extra or {})
        except OSError as error:
            raise self._cannot(error) from None

    def _add(
        self, columns: Mapping[str, np.ndarray], pictures: Mapping[str, Iterable[np.ndarray]], task: str, extra: Mapping[str, Any]
    ) -> int:
        rows, index = len(columns["action"]), len(self._episodes)
        task_index = self._tasks.setdefault(task, len(self._tasks))
        frame_index = np.arange(rows, dtype=np.int64)
        everything: dict[str, Any] = {
            **{name: np.asarray(column) for name, column in columns.items()},
            "timestamp": (frame_index / float(self._fps)).astype(np.float32),
            "frame_index": frame_index,
            "episode_index": np.full(rows, index, np.int64),
            "index": frame_index + self._rows,
            "task_index": np.full(rows, task_index, np.int64),
        }
        statistics = {name: _vector_statistics(column) for name, column in everything.items()}
        video_meta: dict[str, Any] = {}
        for key, feature in self._features.items():
            if feature.dtype == "image":
                everything[key], statistics[key] = _encoded(pictures[key], rows, feature, key)
            elif feature.dtype == "video":
                statistics[key], meta = self._add_video(key, pictures[key], rows, feature)
                video_meta |= meta
        self._write_rows({name: everything[name] for name in (*self._features, *_INDICES) if name in everything})
        line = {
            "episode_index": index,
            "tasks": [task],
            "length": rows,
            "data/chunk_index": self._data.chunk,
            "data/file_index": self._data.file,
            "dataset_from_index": self._rows,
            "dataset_to_index": self._rows + rows,
            **video_meta,
            **extra,
        }
        for name in (*self._features, *_INDICES):
            line |= {f"stats/{name}/{key}": value for key, value in statistics[name].items()}
        self._episodes.append({**line, "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
        self._rows += rows
        return index

    def add_file(self, name: str, data: bytes) -> None:
        """A file of ours inside the dataset."""
        path = self._partial / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except OSError as error:
            raise self._cannot(error) from None

    def _write_rows(self, columns: dict[str, Any]) -> None:
        import pyarrow
        import pyarrow.parquet

        path = self._partial / _DATA.format(chunk_index=self._data.chunk, file_index=self._data.file)
        if self._table is not None and path.stat().st_size >= self._data_mb * 2**20:
            self._table.close()
            self._table = None
            self._data.advance(self._chunks_size)
            path = self._partial / _DATA.format(chunk_index=self._data.chunk, file_index=self._data.file)
        schema = self._schema(pyarrow)
        arrays = [_column(pyarrow, columns[name], schema.field(name).type) for name in schema.names]
        if self._table is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._table = pyarrow.parquet.ParquetWriter(path, schema, compression="snappy")
        self._table.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))

    def _schema(self, pyarrow: Any) -> Any:
        fields, described = [], {}
        for name, feature in self._described().items():
            if feature.dtype == "video":
                continue
            fields.append((name, _arrow_type(pyarrow, feature)))
            described[name] = _hub_feature(feature)
        return pyarrow.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": described}})})

    def _described(self) -> dict[str, Feature]:
        return {**self._features, **{name: Feature(dtype, (1,)) for name, dtype in _INDICES.items()}}

    def _add_video(self, key: str, pictures: Iterable[np.ndarray], rows: int, feature: Feature) -> tuple[dict[str, Any], dict[str, Any]]:
        video = self._videos[key]
        if video.path is not None and video.size() >= self._video_mb * 2**20:
            video.close()
            video.place.advance(self._chunks_size)
        if video.path is None:
            video.open(self._partial / _VIDEO.format(video_key=key, chunk_index=video.place.chunk, file_index=video.place.file))
        began, colours = video.frames, _Colours()
        for picture in _checked(pictures, rows, feature, key):
            video.add(picture)
            colours.add(picture)
        return colours.statistics(), {
            f"videos/{key}/chunk_index": video.place.chunk,
            f"videos/{key}/file_index": video.place.file,
            f"videos/{key}/from_timestamp": float(began / self._fps),
            f"videos/{key}/to_timestamp": float(video.frames / self._fps),
        }

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if self._table is not None:
                self._table.close()
            for video in self._videos.values():
                video.close()
            if error is None:
                self._finish()
        except OSError as problem:
            raise self._cannot(problem) from None
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)

    def _finish(self) -> None:
        import pyarrow
        import pyarrow.parquet

        if not self._episodes:
            raise InputError("no episode to write: nothing was made")
        episodes = self._partial / _EPISODES.format(chunk_index=0, file_index=0)
        episodes.parent.mkdir(parents=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(self._episodes), episodes, compression="snappy")
        pyarrow.parquet.write_table(_tasks_table(pyarrow, self._tasks), self._partial / _TASKS, compression="snappy")
        described = {name: _info_feature(feature) for name, feature in self._described().items()}
        for key, video in self._videos.items():
            described[key]["info"] = video.info()
        info = {
            "codebase_version": VERSION,
            "robot_type": self._robot,
            "total_episodes": len(self._episodes),
            "total_frames": self._rows,
            "total_tasks": len(self._tasks),
            "chunks_size": self._chunks_size,
            "data_files_size_in_mb": self._data_mb,
            "video_files_size_in_mb": self._video_mb,
            "fps": int(self._fps) if self._fps.denominator == 1 else float(self._fps),
            "splits": {"train": f"0:{len(self._episodes)}"},
            "data_path": _DATA,
            "video_path": _VIDEO if self._videos else None,
            "features": described,
        }
        _write_json(self._partial / _INFO, info)
        _write_json(self._partial / _STATS, {name: _aggregated(self._episodes, name) for name in described})
        if self.root.exists():
            self.root.rmdir()
        self._partial.rename(self.root)

    def _cannot(self, error: OSError) -> InputError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return InputError(f"{self.root} cannot be written: {'the disk is full' if full else error.strerror or error}")


@dataclass
class _Place:
    """Which file is filled."""

    chunk: int = 0
    file: int = 0

    def advance(self, chunks_size: int) -> None:
        self.file += 1
        if self.file == chunks_size:
            self.chunk, self.file = self.chunk + 1, 0


_CODING = {"crf": "18", "g": "2", "bf": "0", "preset": "fast", "rc-lookahead": "0", "threads": "1"}
"""One thread and no looking ahead: frames are in the file at once, and an encoder of each camera may run."""


class _Video:
    """One camera's mp4: H.264, every second frame a key frame (as lerobot's), no frame depends on a later one."""

    def __init__(self, fps: Fraction, height: int, width: int) -> None:
        self.place, self.path, self.frames = _Place(), None, 0
        self._fps, self._height, self._width = fps, height, width
        self._container: Any = None

    def open(self, path: Path) -> None:
        import av

        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.frames = path, 0
        self._container = av.open(str(path), "w")
        self._stream = self._container.add_stream("libx264", rate=self._fps, options=_CODING)
        self._stream.width, self._stream.height, self._stream.pix_fmt = self._width, self._height, "yuv420p"

    def add(self, picture: np.ndarray) -> None:
        import av

        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts, frame.time_base = self.frames, 1 / self._fps
        self._container.mux(self._stream.encode(frame))
        self.frames += 1

    def size(self) -> int:
        """Bytes that are in the file."""
        assert self.path is not None
        return self.path.stat().st_size if self.path.exists() else 0

    def close(self) -> None:
        if self._container is not None:
            self._container.mux(self._stream.encode())
            self._container.close()
            self._container, self.path = None, None

    def info(self) -> dict[str, Any]:
        return {
            "video.height": self._height,
            "video.width": self._width,
            "video.codec": "h264",
            "video.pix_fmt": "yuv420p",
            "video.is_depth_map": False,
            "video.fps": int(self._fps) if self._fps.denominator == 1 else float(self._fps),
            "video.channels": 3,
            "has_audio": False,
        }


@dataclass
class _Colours:
    """Statistics of pictures from a count of each of the 256 values of each channel: exact, whatever their number."""

    counts: np.ndarray = field(default_factory=lambda: np.zeros((3, 256), np.int64))
    pictures: int = 0

    def add(self, picture: np.ndarray) -> None:
        for channel in range(3):
            self.counts[channel] += np.bincount(picture[..., channel].ravel(), minlength=256)
        self.pictures += 1

    def statistics(self) -> dict[str, Any]:
        """In [0, 1], (3, 1, 1) each, as lerobot has them. (lerobot 0.4's own std is too small: it squares in 8 bits.)"""
        values, total = np.arange(256) / 255, self.counts.sum(1)
        mean = self.counts @ values / total
        found = {"mean": mean, "std": np.sqrt(np.maximum(self.counts @ values**2 / total - mean**2, 0))}
        found["min"] = np.array([values[np.flatnonzero(count)[0]] for count in self.counts])
        found["max"] = np.array([values[np.flatnonzero(count)[-1]] for count in self.counts])
        sums = self.counts.cumsum(1)
        for name, share in _QUANTILES.items():
            found[name] = np.array([values[np.searchsorted(line, share * line[-1])] for line in sums])
        found = {name: value.reshape(3, 1, 1).tolist() for name, value in found.items()}
        return {name: [self.pictures] if name == "count" else found[name] for name in _STATISTICS}


def _vector_statistics(column: np.ndarray) -> dict[str, Any]:
    """Of each entry over the rows in which all are finite; None where there is no such row."""
    table = column.reshape(len(column), -1)
    numbers = table.astype(np.float64)
    known = np.isfinite(numbers).all(axis=1)
    if not known.any():
        return dict.fromkeys(_STATISTICS)
    table, numbers = table[known], numbers[known]
    return {
        "min": table.min(0).tolist(),
        "max": table.max(0).tolist(),
        "mean": numbers.mean(0).tolist(),
        "std": numbers.std(0).tolist(),
        "count": [len(table)],
        **{name: np.quantile(numbers, share, axis=0).tolist() for name, share in _QUANTILES.items()},
    }


def _aggregated(episodes: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Over all episodes, as lerobot puts them together: exact but for quantiles, which are their means weighted by rows."""
    found = {key: [episode[f"stats/{name}/{key}"] for episode in episodes] for key in _STATISTICS}
    known = [index for index, count in enumerate(found["count"]) if count is not None]
    if not known:
        return {}
    parts = {key: np.array([values[index] for index in known]) for key, values in found.items()}
    weight = parts["count"].reshape(-1, *[1] * (parts["mean"].ndim - 1)) / parts["count"].sum()
    mean = (weight * parts["mean"]).sum(0)
    result = {
        "min": parts["min"].min(0),
        "max": parts["max"].max(0),
        "mean": mean,
        "std": np.sqrt((weight * (parts["std"] ** 2 + (parts["mean"] - mean) ** 2)).sum(0)),
        "count": parts["count"].sum(0),
        **{key: (weight * parts[key]).sum(0) for key in _QUANTILES},
    }
    return {key: value.tolist() for key, value in result.items()}


def _checked(pictures: Iterable[np.ndarray], rows: int, feature: Feature, key: str) -> Iterator[np.ndarray]:
    count = 0
    for picture in pictures:
        count += 1
        if picture.shape != feature.shape or picture.dtype != np.uint8:
            raise InputError(f"{key}: a picture is {picture.shape} {picture.dtype}, others are {feature.shape} uint8")
        yield picture
    if count != rows:
        raise InputError(f"{key}: {count} pictures for {rows} rows")


def _encoded(pictures: Iterable[np.ndarray], rows: int, feature: Feature, key: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    cells, colours = [], _Colours()
    for index, picture in enumerate(_checked(pictures, rows, feature, key)):
        cells.append({"bytes": encode(picture, lossless=True), "path": f"frame-{index:06d}.png"})
        colours.add(picture)
    return cells, colours.statistics()


def _arrow_type(pyarrow: Any, feature: Feature) -> Any:
    if feature.dtype == "image":
        return pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    value = pyarrow.bool_() if feature.dtype == "bool" else pyarrow.from_numpy_dtype(np.dtype(feature.dtype))
    return value if feature.shape == (1,) else pyarrow.list_(pyarrow.field("element", value), feature.shape[0])


def _hub_feature(feature: Feature) -> dict[str, Any]:
    """What the `datasets` library writes about a column into a parquet file."""
    if feature.dtype == "image":
        return {"_type": "Image"}
    value = {"dtype": feature.dtype, "_type": "Value"}
    return value if feature.shape == (1,) else {"feature": value, "length": feature.shape[0], "_type": "List"}


def _column(pyarrow: Any, column: Any, kind: Any) -> Any:
    if isinstance(column, np.ndarray) and column.ndim == 2 and pyarrow.types.is_fixed_size_list(kind):
        return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(column.ravel(), kind.value_type), type=kind)
    return pyarrow.array(column.ravel() if isinstance(column, np.ndarray) else column, kind)


def _tasks_table(pyarrow: Any, tasks: dict[str, int]) -> Any:
    """As pandas writes a frame whose index is the instruction: lerobot looks it up there."""
    index = "__index_level_0__"
    about = {
        "index_columns": [index],
        "column_indexes": [
            {"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object", "metadata": {"encoding": "UTF-8"}}
        ],
        "columns": [
            {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64", "metadata": None},
            {"name": None, "field_name": index, "pandas_type": "unicode", "numpy_type": "object", "metadata": None},
        ],
        "creator": {"library": "pyarrow", "version": pyarrow.__version__},
        "pandas_version": "2.2.3",
    }
    schema = pyarrow.schema([("task_index", pyarrow.int64()), (index, pyarrow.large_string())], metadata={"pandas": json.dumps(about)})
    return pyarrow.Table.from_arrays(
        [pyarrow.array(list(tasks.values())), pyarrow.array(list(tasks), pyarrow.large_string())], schema=schema
    )


def _info_feature(feature: Feature) -> dict[str, Any]:
    return {"dtype": feature.dtype, "shape": list(feature.shape), "names": list(feature.names) if feature.names else None}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=4, ensure_ascii=False), encoding="utf-8")


class DatasetReader:
    """A dataset that lies in a folder. Raises InputError naming the file or the feature that is missing or damaged."""

    def __init__(self, root: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        self.root = root
        if not (root / _INFO).is_file():
            raise InputError(f"{root}: no LeRobotDataset (no {_INFO})")
        try:
            self.info: dict[str, Any] = json.loads((root / _INFO).read_text(encoding="utf-8"))
            version = self.info["codebase_version"]
            if not str(version).startswith("v3."):
                raise InputError(f"{root}: a LeRobotDataset {version}; convert it with lerobot's convert_dataset_v21_to_v30 first")
            self.fps = Fraction(str(self.info["fps"]))
            self.features = {name: _read_feature(name, one) for name, one in self.info["features"].items()}
            files = sorted((root / "meta/episodes").glob("*/*.parquet"))
            if not files:
                raise InputError(f"{root}: no meta/episodes/*/*.parquet")
            self.episodes: list[dict[str, Any]] = []
            for path in files:
                names = [name for name in pyarrow.parquet.read_schema(path).names if not name.startswith("stats/")]
                self.episodes += pyarrow.parquet.read_table(path, columns=names).to_pylist()
            tasks = pyarrow.parquet.read_table(root / _TASKS).to_pydict()
            words = next((tasks[name] for name in ("__index_level_0__", "task") if name in tasks), None)
            if words is None:
                raise InputError(f"{root / _TASKS}: no column with the instructions")
            self.tasks: dict[int, str] = dict(zip(tasks["task_index"], words))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, pyarrow.ArrowException) as error:
            missing = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else str(error)
            raise InputError(f"{root}: damaged: {' '.join(missing.split())}") from None
        self._file: tuple[Path, Any] | None = None

    def columns(self, index: int) -> dict[str, np.ndarray]:
        """Feature -> (rows,) or (rows, length) of episode `index`; pictures are not among them."""
        return {
            name: _numbers(table_column, self.root, name) for name, table_column in self._rows(index).items() if name not in self.pictures
        }

    @property
    def pictures(self) -> tuple[str, ...]:
        """The features that are images or videos."""
        return tuple(name for name, feature in self.features.items() if feature.picture)

    def images(self, index: int, key: str) -> Iterator[np.ndarray]:
        """(height, width, 3) uint8 RGB of each row of episode `index`, one after the other."""
        if self.features[key].dtype == "video":
            yield from self._video(index, key)
            return
        for row, cell in enumerate(self._rows(index)[key].to_pylist()):
            try:
                data = cell["bytes"] if cell["bytes"] is not None else (self.root / cell["path"]).read_bytes()
                yield decode(data)
            except (OSError, ValueError, TypeError) as error:
                raise InputError(f"{self.root}: {key} of episode {index}, row {row}: {error}") from None

    def task(self, index: int) -> str:
        """The instruction of episode `index`."""
        number = int(self.columns(index)["task_index"][0])
        if number not in self.tasks:
            raise InputError(f"{self.root / _TASKS}: no task {number}, which episode {index} names")
        return self.tasks[number]

    def _rows(self, index: int) -> dict[str, Any]:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet

        line = self.episodes[index]
        try:
            path = self.root / self.info["data_path"].format(chunk_index=line["data/chunk_index"], file_index=line["data/file_index"])
            if self._file is None or self._file[0] != path:
                self._file = path, pyarrow.parquet.read_table(path)
            table = self._file[1]
            table = table.filter(pyarrow.compute.equal(table["episode_index"], line["episode_index"]))
        except (OSError, KeyError, pyarrow.ArrowException) as error:
            raise InputError(f"{self.root}: rows of episode {index}: {' '.join(str(error).split())}") from None
        if len(table) != line["length"]:
            raise InputError(f"{self.root}: episode {index} has {len(table)} rows, meta/episodes says {line['length']}")
        return {name: table[name].combine_chunks() for name in table.column_names}

    def _video(self, index: int, key: str) -> Iterator[np.ndarray]:
        import av

        line = self.episodes[index]
        try:
            place = {"chunk_index": line[f"videos/{key}/chunk_index"], "file_index": line[f"videos/{key}/file_index"]}
            path = self.root / self.info["video_path"].format(video_key=key, **place)
            began, rows, wanted = Fraction(line[f"videos/{key}/from_timestamp"]).limit_denominator(10**6), line["length"], 0
            with av.open(str(path)) as container:
                stream = container.streams.video[0]
                assert stream.time_base is not None
                container.seek(int(began / stream.time_base), stream=stream, backward=True)
                for frame in container.decode(stream):
                    row = round((frame.pts * stream.time_base - began) * self.fps)  # type: ignore[operator]
                    if row < wanted:
                        continue
                    if row > wanted:
                        break
                    yield frame.to_ndarray(format="rgb24")
                    wanted += 1
                    if wanted == rows:
                        return
        except (OSError, KeyError, IndexError, av.FFmpegError) as error:
            raise InputError(f"{self.root}: video of {key}, episode {index}: {' '.join(str(error).split())}") from None
        raise InputError(f"{path}: frame {wanted} of episode {index} is missing")


def _read_feature(name: str, one: dict[str, Any]) -> Feature:
    names = one.get("names")
    if isinstance(names, dict):  # {"motors": [...]}
        names = next((value for value in names.values() if isinstance(value, list)), None)
    return Feature(str(one["dtype"]), tuple(int(size) for size in one["shape"]), tuple(map(str, names)) if names else None)


def _numbers(column: Any, root: Path, name: str) -> np.ndarray:
    """(rows,) or (rows, length) of a column, nested lists flattened."""
    lengths = len(column)
    while hasattr(column, "flatten") and "list" in str(column.type):
        if column.null_count:
            raise InputError(f"{root}: {name} has rows without a value")
        column = column.flatten()
    values = column.to_numpy(zero_copy_only=False)
    if len(values) == lengths:
        return values
    if not lengths or len(values) % lengths:
        raise InputError(f"{root}: rows of {name} differ in length")
    return values.reshape(lengths, -1)


def progress_table(index: np.ndarray, episode: np.ndarray, frame: np.ndarray, progress: np.ndarray, model_id: str) -> bytes:
    """The content of `sarm_progress.parquet`, which lerobot's RA-BC reads: a line per row of the dataset, progress in [0, 1], NaN where
    unknown. model_id: what the progress comes from."""
    import pyarrow
    import pyarrow.parquet

    columns = {
        "index": index.astype(np.int64),
        "episode_index": episode.astype(np.int64),
        "frame_index": frame.astype(np.int64),
        "progress_sparse": progress.astype(np.float32),
    }
    buffer = BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns).replace_schema_metadata({"reward_model_path": model_id}), buffer)
    return buffer.getvalue()
