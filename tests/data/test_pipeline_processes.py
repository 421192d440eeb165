# SPDX-License-Identifier: Apache-2.0
"""Real processes of a run, with threads and with workers, see the batches that one process sees."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import stream_process  # noqa: E402  (a script beside this file)

# Example 12 is listed, 4 and 9 cannot be read. The second of two processes meets them late, after
# what its worker may hold ahead.
POLICY = {"bad": [4, 9], "excluded": [12], "limit": 3}
STRICT = {**POLICY, "limit": 0}
STEPS = 9


def start(*streams):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, str(HERE / "stream_process.py"), json.dumps(streams)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Finished:
    """What two processes printed, and what became of their workers."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The first and second of two processes, which also play those of four."""
    found = Finished()
    reads = tmp_path_factory.mktemp("reads") / "count"
    two = {"process_count": 2, **POLICY}
    four = {"process_count": 4, "steps": 3, **POLICY}
    first = start(
        {"process_index": 0, "start_step": 3, "steps": 4, "threads": 3, **two},
        {"process_index": 0, "threads": 0, **four},
        {"process_index": 2, "start_step": 1, **four},
        {"process_index": 0, "workers": 2, "steps": STEPS, "pause": [STEPS - 1], **two},
    )
    second = start(
        {"process_index": 1, "process_count": 2, "workers": 1, "steps": STEPS, "pause": [1],
         "prefetch": 4, "count_in": str(reads), **STRICT},
        {"process_index": 1, "start_step": 3, "steps": 4, "threads": 1, **two},
        {"process_index": 1, **four},
        {"process_index": 3, "start_step": 1, "threads": 1, **four},
    )  # fmt: skip
    try:
        # The second waits with a batch in hand, while signals go to its worker.
        head = second.stdout.readline()
        (worker,) = json.loads(head)["workers"]
        found.reads = wait_for_rest(reads)
        os.kill(worker, signal.SIGTERM)
        os.kill(worker, signal.SIGINT)
        rest, found.errors = second.communicate("go on\n", timeout=120)
        found.second = streams(head + rest)

        # The first is killed while its workers hold batches.
        lines = [first.stdout.readline() for _ in range(4 + 3 + 3 + 3 + STEPS - 1)]
        found.workers = json.loads(lines[-1])["workers"]
        first.kill()
        # Its workers have its stdout, which ends when they have.
        rest, _ = first.communicate(timeout=60)
        found.first = streams("".join(lines) + rest)
    finally:
        first.kill()
        second.kill()
    return found


def wait_for_rest(path):
    """The size of a file once it has not grown for a while."""
    sizes = []
    while len(sizes) < 4 or len(set(sizes[-4:])) > 1:
        time.sleep(0.15)
        sizes.append(path.stat().st_size)
    return sizes[-1]


def streams(text):
    """[(steps: digests, the line behind them)] of what was printed."""
    found, steps = [], {}
    for line in map(json.loads, text.splitlines()):
        if "step" in line:
            steps[line["step"]] = line["digests"]
        else:
            found.append((steps, line))
            steps = {}
    return [*found, (steps, None)] if steps else found


@pytest.fixture(scope="module")
def whole():
    """The digests of every step, by one process without any help."""
    lines = list(stream_process.run(steps=STEPS, threads=0, **POLICY))
    return [line["digests"] for line in lines[:-1]]


def test_two_processes_share_the_batches_of_one(whole, finished):
    for part, found in enumerate((finished.first, finished.second)):
        steps, end = found[0] if part == 0 else found[1]
        assert steps == {step: whole[step][part::2] for step in range(3, 7)}
        assert end["error"] is None


def test_four_processes_share_the_batches_of_one(whole, finished):
    parts = [finished.first[1], finished.second[2], finished.first[2], finished.second[3]]
    for part, (steps, end) in enumerate(parts):
        assert steps == {step + part // 2: whole[step + part // 2][part::4] for step in range(3)}
        assert end["error"] is None


def test_workers_change_nothing(whole, finished):
    steps, _ = finished.first[3]
    assert steps == {step: whole[step][0::2] for step in range(STEPS - 1)}


def test_an_unreadable_example_arrives_from_a_worker_in_its_turn(whole, finished):
    strict = stream_process.run(steps=STEPS, threads=0, process_index=1, process_count=2, **STRICT)
    *before, end = strict
    assert len(before) == STEPS - 1 and end["error"] == "damaged: folder/4.png"
    steps, line = finished.second[0]
    assert steps == {step: whole[step][1::2] for step in range(len(before))}
    assert line["error"] == end["error"] and line["left"] == []


def test_a_worker_reads_no_further_ahead_than_allowed(finished):
    assert 4 < finished.reads <= 4 * (1 + 4) + 2  # and what stands in for unreadable examples


def test_workers_end_with_the_process_and_quietly(finished):
    assert len(finished.workers) == 2  # their end is what the fixture waited for
    # A batch in shared memory that an error's traceback held to the end would be told as a leak.
    for noise in ("Traceback", "resource_tracker", "leaked"):
        assert noise not in finished.errors, finished.errors
