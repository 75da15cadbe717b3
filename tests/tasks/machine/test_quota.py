"""Limits of control groups, read from files as kernels lay them out, and in real groups of this kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks import machine
from tasks.caching.work import Work
from tasks.machine import quota
from tasks.records import Data
from tests.support.digits import digits
from tests.support.groups import group, join_command
from tests.support.paths import ROOT
from tests.support.servers import FinishedRun, running

# Lines of /proc/self/mountinfo with the hierarchies of cgroup v2 and v1, where `top` is the group at the mount's root.
V2 = "31 24 0:27 {top} /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "25 1 0:20 / /proc rw - proc proc rw\n"
    "33 32 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw,nosuid master:14 - cgroup cgroup rw,cpu,cpuacct\n"
    "34 32 0:30 {top} /sys/fs/cgroup/memory rw,nosuid master:15 - cgroup cgroup rw,memory\n"
)


def write_tree(root: Path, own_groups: str, mounts: str, files: dict[str, str]) -> Path:
    """Write a /proc with the process's groups and mounts, and a /sys with the groups' files below /sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(own_groups)
    (root / "proc/self/mountinfo").write_text(mounts)
    (root / "proc/meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:  8000000 kB\n")
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("own_groups", "mounts", "files", "expected"),
    [
        ("0::/\n", V2.format(top="/"), {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", V2.format(top="/"), {"cpu.max": "max 100000\n"}, None),
        # The root group has no file cpu.max.
        ("0::/\n", V2.format(top="/"), {}, None),
        # The limit stands in the process's own group, not at the top of the hierarchy.
        ("0::/a/b\n", V2.format(top="/"), {"cpu.max": "max 100000", "a/b/cpu.max": "200000 100000"}, 2.0),
        # Of nested groups the one with the smallest limit counts.
        (
            "0::/a/b/c\n",
            V2.format(top="/"),
            {"a/cpu.max": "300000 100000", "a/b/cpu.max": "50000 100000", "a/b/c/cpu.max": "max 100000"},
            0.5,
        ),
        # The limit of a sibling of the process's group does not count.
        ("0::/a/b\n", V2.format(top="/"), {"a/b/cpu.max": "max 100000", "a/x/cpu.max": "10000 100000"}, None),
        # A container without a namespace of its own sees its group as the mount's root.
        ("0::/docker/1f\n", V2.format(top="/docker/1f"), {"cpu.max": "250000 100000"}, 2.5),
        (
            "0::/docker/1f/in\n",
            V2.format(top="/docker/1f"),
            {"in/cpu.max": "100000 100000", "cpu.max": "max 100000"},
            1.0,
        ),
        # The process's group lies outside the mounted part of the hierarchy, so that the mount's root counts.
        ("0::/../other\n", V2.format(top="/"), {"cpu.max": "400000 100000"}, 4.0),
        (
            "4:cpu,cpuacct:/\n3:memory:/\n",
            V1.format(top="/"),
            {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            None,
        ),
        (
            "4:cpu,cpuacct:/k/p\n3:memory:/k/p\n0::/x\n",
            V1.format(top="/"),
            {
                "cpu,cpuacct/cpu.cfs_quota_us": "-1",
                "cpu,cpuacct/cpu.cfs_period_us": "100000",
                "cpu,cpuacct/k/cpu.cfs_quota_us": "300000",
                "cpu,cpuacct/k/cpu.cfs_period_us": "100000",
                "cpu,cpuacct/k/p/cpu.cfs_quota_us": "90000",
                "cpu,cpuacct/k/p/cpu.cfs_period_us": "50000",
            },
            1.8,
        ),
        ("", "", {}, None),
    ],
)
def test_the_smallest_quota_of_the_own_control_group_and_those_above_it_counts(
    tmp_path: Path, own_groups: str, mounts: str, files: dict[str, str], expected: float | None
) -> None:
    assert quota.processors(write_tree(tmp_path, own_groups, mounts, files)) == expected


@pytest.mark.parametrize(
    ("own_groups", "mounts", "files", "expected"),
    [
        (
            "0::/a\n",
            V2.format(top="/"),
            {
                "a/memory.max": "1000",
                "a/memory.current": "600",
                "a/memory.stat": "anon 5\ninactive_file 100\nactive_file 7\n",
            },
            500,
        ),
        (
            "0::/a\n",
            V2.format(top="/"),
            {"memory.max": "900", "memory.current": "800", "a/memory.max": "max", "a/memory.current": "600"},
            100,
        ),
        ("0::/a\n", V2.format(top="/"), {"a/memory.max": "max", "a/memory.current": "600"}, None),
        ("0::/a\n", V2.format(top="/"), {"a/memory.max": "500", "a/memory.current": "600"}, 0),
        (
            "3:memory:/a\n",
            V1.format(top="/"),
            {
                "memory/a/memory.limit_in_bytes": "1000",
                "memory/a/memory.usage_in_bytes": "700",
                "memory/a/memory.stat": "inactive_file 1\ntotal_inactive_file 200\n",
            },
            500,
        ),
        ("", "", {}, None),
    ],
)
def test_memory_left_in_a_group_does_not_count_file_cache_as_taken(
    tmp_path: Path, own_groups: str, mounts: str, files: dict[str, str], expected: int | None
) -> None:
    root = write_tree(tmp_path, own_groups, mounts, files)
    assert quota.memory_left(root) == expected
    assert quota.memory_available(root) == (8_000_000 * 1024 if expected is None else expected)


@pytest.mark.parametrize(("limit", "expected"), [(2.9, 2), (1.5, 1), (0.3, 1), (64.0, 4), (None, 4)])
def test_usable_processors_are_a_whole_number_within_quota_and_affinity(
    monkeypatch: pytest.MonkeyPatch, limit: float | None, expected: int
) -> None:
    monkeypatch.setattr(quota, "processors", lambda root=None: limit)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    assert quota.usable_processors() == expected
    assert machine.cores() <= expected


def printed(group_folder: Path, code: str, **variables: str) -> str:
    """Return what Python code prints that runs inside a control group."""
    # The deployed server, which other tests of this process import, sets the threads of all libraries.
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")} | variables
    return subprocess.run(
        [*join_command(group_folder), sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        text=True,
        capture_output=True,
        check=True,
    ).stdout.strip()


needs_two = pytest.mark.skipif(
    len(machine.affinity()) < 2, reason="a quota of one processor limits nothing on a machine with one processor"
)


@needs_two
def test_burnish_uses_as_many_threads_as_the_quota_of_its_group_allows() -> None:
    with group("cpu", 100_000) as group_folder:
        assert printed(group_folder, "from tasks import machine; print(machine.cores())") == "1"
        threads = "from tasks import machine; machine.keep_to_quota(); import torch; print(torch.get_num_threads())"
        assert printed(group_folder, threads) == "1"
        # A number of threads that the user sets stays.
        assert printed(group_folder, threads, OMP_NUM_THREADS="2") == "2"


@needs_two
def test_a_deployed_server_uses_as_many_threads_as_the_quota_of_its_group_allows(tmp_path: Path) -> None:
    work = Work.at(tmp_path, "deploy")
    run = FinishedRun(tmp_path, work, digits(work, 60), Data(source="digits"))
    run.summarise({("lenet5/train/onnx", "onnxruntime"): 1.0}, threads=2)
    folder = run.deploy(tmp_path / "served")
    assert json.loads((folder / "model.json").read_text())["threads"] == 2
    with running(folder) as server:
        pass
    assert "lenet5/train/onnx: threads per query 2," in server.output
    with group("cpu", 100_000) as group_folder, running(folder, prefix=join_command(group_folder)) as server:
        pass
    assert "the model was measured with 2 threads; this machine or container has 1 for it" in server.output
    assert "lenet5/train/onnx: threads per query 1, decoders 1" in server.output


def test_memory_left_in_a_real_group_is_within_its_limit() -> None:
    with group("memory", 300 << 20) as group_folder:
        output = printed(
            group_folder, "from tasks.machine import quota; print(quota.memory_left(), quota.memory_available())"
        )
        remaining, available = map(int, output.split())
        assert 0 < remaining <= 300 << 20
        assert 0 < available <= 300 << 20
