# SPDX-License-Identifier: Apache-2.0
"""Copies a data set into a few large files, easier to check and to move than many small ones.

The copy holds the bytes of the data set's files, unchanged; `sources.prepared` describes it and
reads it. It is written part by part by a builder of TensorFlow Datasets (TFDS), without TensorFlow.
Every finished part is kept, with its checksum, until all are there:

    OUT.incomplete/
        lock              locked by the process that is preparing
        plan.json         what is being prepared; another data set is refused
        copy/             finished parts; becomes OUT when all are there
        SHARD.json        size and checksum of a finished part, and of its first example
        building/         the part that is being written
"""

import concurrent.futures
import contextlib
import fcntl
import functools
import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tqdm
from absl import logging
from etils import epath

from dpt_jax.data.sources import base, files, prepared

PART_BYTES = 64 << 20
"""Size that parts are given; each becomes one shard. Writing one needs several times the memory."""

# TFDS collects a part in memory, too; beyond 1000 MiB it would go on with TensorFlow.
_MAX_PART_BYTES = 900 << 20
_VERSION = "1.0.0"
_PROBES = 16


class _Part(NamedTuple):
    split: str
    source: Any
    examples: range
    shard: str
    expected_bytes: float


def prepare(
    source_name: str,
    splits: Mapping[str, Any],
    out: epath.PathLike,
    *,
    examples_per_part: int | None = None,
    check: bool = True,
    progress: bool = True,
) -> Path:
    """Copies splits of a data set into one folder of ArrayRecord files.

    Index i of a prepared split is index i of its source. After an interruption, the same call goes
    on behind the last finished part. Two copies hold equal records, though not always in equal
    bytes: protobuf writes the fields of a record in any order.

    Args:
        source_name: what `config.data.source` calls the data set; kept for the record.
        splits: by name, sources with `meaning` and `encoded` (see `files.FileSource`), which may be
            remote. Threads read from them at the same time.
        out: folder to make, on a local disk; it appears when it is complete.
        examples_per_part: None makes parts of about `PART_BYTES`.
        check: decode every example before it is copied, so that what is prepared can be trained on.
        progress: show a bar, or a line for each part if stderr is no terminal.

    Returns:
        `out`.

    Raises:
        DatasetError: `out` is remote, exists, is being prepared by another process, or its
            unfinished copy is of other data; the disk is full; an example has other fields than the
            first; with `check`, an example that cannot be decoded, by the name of its file.
    """
    out = _new_folder(out)
    work = out.with_name(f"{out.name}.incomplete")
    plan, parts = {"source": source_name}, []
    for name, source in splits.items():
        part_of_plan, parts_of_split = _plan(name, source, examples_per_part)
        plan |= part_of_plan
        parts += parts_of_split
    features = prepared.features(parts[0].source.encoded(0))
    with _locked(work):
        _new_folder(out)  # which another process may have made meanwhile
        _begin(work, plan)
        todo = [part for part in parts if not _is_finished(work, part)]
        _check_space(work, todo)
        total = sum(len(part.examples) for part in parts)
        done = total - sum(len(part.examples) for part in todo)
        off = None if progress else True  # None: a bar on terminals only
        with tqdm.tqdm(total=total, initial=done, unit=" examples", disable=off) as bar:
            for part in todo:
                _write_part(work, part, _read(part, features, check, bar), features)
                done += len(part.examples)
                if progress and bar.disable:
                    print(f"prepared {done} of {total} examples", file=sys.stderr, flush=True)
        with _writing(work, "the metadata"):
            _write_metadata(work, source_name, parts, features)
            os.rename(work / "copy", out)
    shutil.rmtree(work)
    return out


def _new_folder(out: epath.PathLike) -> Path:
    if not base.is_local(epath.Path(out)):
        raise base.DatasetError(
            f"{out}: prepared data is written to local disks only. Prepare into a local folder, "
            "then copy that (`gcloud storage cp -r`)"
        )
    path = Path(out).expanduser().absolute()
    if path.exists():
        raise base.DatasetError(f"{path} exists; delete it, or choose a folder that does not")
    return path


def _plan(
    split: str, source: Any, examples_per_part: int | None
) -> tuple[dict[str, Any], list[_Part]]:
    """What tells the data of a split from other data, and its parts.

    Sizes are guessed from a few examples: asking for those of all files would take too long.
    """
    count = len(source)
    probes = [source.encoded(int(i)) for i in np.linspace(0, count - 1, min(_PROBES, count))]
    size = sum(_size(prepared.record(probe)) for probe in probes) / len(probes)
    step = examples_per_part or max(1, min(count, int(PART_BYTES / max(size, 1))))
    plan = {
        f"{split}: number of examples": count,
        f"{split}: names": _digest([source.name(i) for i in range(count)]),
        f"{split}: meaning": source.meaning.to_json(),
        f"{split}: examples per part": step,
    }
    starts = range(0, count, step)
    parts = []
    for i, start in enumerate(starts):
        examples = range(start, min(start + step, count))
        shard = f"{prepared.NAME}-{split}.array_record-{i:05d}-of-{len(starts):05d}"
        parts.append(_Part(split, source, examples, shard, size * len(examples)))
    return plan, parts


@contextlib.contextmanager
def _locked(work: Path) -> Iterator[None]:
    """Makes the folder of the unfinished copy, for this process alone."""
    with _writing(work, "the lock"):
        work.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in work.iterdir()}
        if "plan.json" not in names and names - {"plan.json.new", "lock"}:
            raise base.DatasetError(f"{work} was not begun by `dpt-jax data prepare`; move it")
        lock = (work / "lock").open("a")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however that
        except BlockingIOError as error:
            raise base.DatasetError(
                f"another process is preparing {work}; wait for it, or choose another folder"
            ) from error
        except OSError as error:  # some network disks have no locks
            logging.warning("%s is not locked (%s): prepare it only once at a time", work, error)
        yield


def _begin(work: Path, plan: dict[str, Any]) -> None:
    """Writes the plan, or makes sure that the unfinished copy is one of the same data."""
    written = work / "plan.json"
    with _writing(work, "the plan"):
        if not written.exists():
            _write_json(written, plan)
        (work / "copy").mkdir(exist_ok=True)
    before, now = json.loads(written.read_text()), json.loads(json.dumps(plan))
    for key in before | now:
        if before.get(key) != now.get(key):
            raise _other_data(work, key)


def _other_data(work: Path, what: str) -> base.DatasetError:
    return base.DatasetError(f"the data has changed since ({what}): delete {work} to begin anew")


def _is_finished(work: Path, part: _Part) -> bool:
    shard, manifest = work / "copy" / part.shard, _manifest(work, part)
    if not (shard.exists() and manifest.exists()):
        return False
    expected = json.loads(manifest.read_text())
    first = prepared.record(part.source.encoded(part.examples[0]))
    if expected["first"] != _digest(first.values()):
        raise _other_data(work, f"{part.split}: contents of {first['name']}")
    if expected["sha256"] == prepared.sha256(shard):
        return True
    logging.warning("%s has changed since it was written; it is prepared again", shard)
    return False


def _check_space(work: Path, parts: Sequence[_Part]) -> None:
    needed = sum(part.expected_bytes for part in parts) * 1.02
    free = shutil.disk_usage(work).free
    if needed > free:
        raise base.DatasetError(
            f"about {needed / 1e9:.1f} GB are needed in {work}, {free / 1e9:.1f} GB are free; make "
            "room, or choose a folder on another disk"
        )


def _read(
    part: _Part, features: Mapping[str, Any], check: bool, bar: tqdm.tqdm
) -> list[dict[str, Any]]:
    def read(index: int) -> dict[str, Any]:
        encoded = part.source.encoded(index)
        if check:
            files.decode(encoded, part.source.meaning)
        return prepared.record(encoded)

    records, size = [], 0
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for record in pool.map(read, part.examples):
            if record.keys() != features.keys():
                raise base.DatasetError(
                    f"{record['name']} has {', '.join(record)}, but the first example has "
                    f"{', '.join(features)}; all examples must have the same"
                )
            size += _size(record)
            if size > _MAX_PART_BYTES:
                raise base.DatasetError(
                    f"the {len(part.examples)} examples from {records[0]['name']} on are more "
                    f"than {_MAX_PART_BYTES >> 20} MiB; delete the unfinished copy and pass a "
                    "smaller examples_per_part to prepare()"
                )
            records.append(record)
            bar.update()
    return records


@functools.cache
def _builder_class() -> Any:
    """Made only once: TFDS keeps every class of builders, and with it all that it refers to."""
    import tensorflow_datasets as tfds

    class Info(tfds.core.DatasetInfo):
        def initialize_from_bucket(self) -> None:
            """Nothing: Google's has none of it, and looking leaves an empty folder each time."""

    class DptData(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """One part of a data set as a data set of TFDS."""

        name = prepared.NAME
        VERSION = tfds.core.Version(_VERSION)

        def __init__(self, *, split: str, records: Iterator[Any], features: Any, data_dir: Path):
            self._split, self._records, self._described = split, records, features
            super().__init__(data_dir=data_dir)

        def _info(self) -> Any:
            described = tfds.features.FeaturesDict(self._described)
            return Info(builder=self, features=described, disable_shuffling=True)

        def _split_generators(self, dl_manager: Any) -> Any:
            return {self._split: self._generate_examples()}

        def _generate_examples(self) -> Any:
            yield from enumerate(self._records)

    return DptData


def _write_part(
    work: Path, part: _Part, records: Sequence[dict[str, Any]], features: dict[str, Any]
) -> None:
    import tensorflow_datasets as tfds

    building, shard = work / "building", work / "copy" / part.shard
    shutil.rmtree(building, ignore_errors=True)
    tfds.disable_progress_bar()
    # TFDS prints that it "downloads".
    with _writing(work, part.shard), contextlib.redirect_stdout(io.StringIO()):
        # An iterator, because it lets go of the records at its end; TFDS does so much later.
        builder = _builder_class()(
            split=part.split, records=iter(records), features=features, data_dir=building
        )
        builder.download_and_prepare(
            file_format="array_record",
            download_config=tfds.download.DownloadConfig(num_shards=1),
        )
        (written,) = builder.data_path.glob(f"{prepared.NAME}-*")
        os.replace(written, shard)
        identity = {"bytes": shard.stat().st_size, "sha256": prepared.sha256(shard)}
        identity["first"] = _digest(records[0].values())
        _write_json(_manifest(work, part), identity)


@contextlib.contextmanager
def _writing(work: Path, what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # ArrayRecord raises RuntimeError if a disk is full
        raise base.DatasetError(
            f"{what} could not be written ({error}). Finished parts are kept in {work}; make room "
            "and run the same command again"
        ) from error


def _write_metadata(
    work: Path, source_name: str, parts: Sequence[_Part], features: dict[str, Any]
) -> None:
    """Writes what belongs beside the shards."""
    import tensorflow_datasets as tfds

    copy = work / "copy"
    written = {part.shard: json.loads(_manifest(work, part).read_text()) for part in parts}
    sources = {part.split: part.source for part in parts}
    infos = []
    for split, source in sources.items():
        mine = [part for part in parts if part.split == split]
        infos.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[len(part.examples) for part in mine],
                num_bytes=sum(written[part.shard]["bytes"] for part in mine),
            )
        )
        names = [source.name(i) for i in range(len(source))]
        _write_json(copy / f"names-{split}.json", names)
    metadata = {
        "source": source_name,
        "meaning": {split: source.meaning.to_json() for split, source in sources.items()},
        "bytes": {shard: identity["bytes"] for shard, identity in written.items()},
    }
    tfds.folder_dataset.write_metadata(
        data_dir=copy,
        features=features,
        split_infos=infos,
        version=_VERSION,
        check_data=False,
        metadata=tfds.core.MetadataDict(metadata),
        disable_shuffling=True,
    )
    checksums = {shard: identity["sha256"] for shard, identity in written.items()}
    for path in copy.iterdir():
        if path.name not in checksums and path.name != prepared.CHECKSUMS:
            checksums[path.name] = prepared.sha256(path)
    lines = [f"{checksums[name]}  {name}\n" for name in sorted(checksums)]
    (copy / prepared.CHECKSUMS).write_text("".join(lines))


def _manifest(work: Path, part: _Part) -> Path:
    return work / f"{part.shard}.json"


def _size(record: Mapping[str, Any]) -> int:
    return sum(len(value) for value in record.values() if isinstance(value, bytes))


def _digest(values: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for value in values:
        data = value.encode() if isinstance(value, str) else bytes(value)
        digest.update(f"{len(data)}:".encode() + data)
    return digest.hexdigest()


def _write_json(path: Path, value: Any) -> None:
    """Writes a file that is there as a whole or not at all."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(json.dumps(value, indent=1))
    os.replace(new, path)
