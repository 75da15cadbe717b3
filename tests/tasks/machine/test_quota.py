"""What control groups leave: told from files as kernels lay them out, and from groups of the kernel's own."""

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

V2 = "31 24 0:27 {top} /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "25 1 0:20 / /proc rw - proc proc rw\n"
    "33 32 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw,nosuid master:14 - cgroup cgroup rw,cpu,cpuacct\n"
    "34 32 0:30 {top} /sys/fs/cgroup/memory rw,nosuid master:15 - cgroup cgroup rw,memory\n"
)


def tree(root: Path, own: str, mounts: str, files: dict[str, str]) -> Path:
    """A /proc and a /sys: the process's groups, its mounts, and the groups' files below /sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(own)
    (root / "proc/self/mountinfo").write_text(mounts)
    (root / "proc/meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:  8000000 kB\n")
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("own", "mounts", "files", "want"),
    [
        ("0::/\n", V2.format(top="/"), {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", V2.format(top="/"), {"cpu.max": "max 100000\n"}, None),
        # the root group has no such file
        ("0::/\n", V2.format(top="/"), {}, None),
        # The own group's folder, not the hierarchy's top.
        ("0::/a/b\n", V2.format(top="/"), {"cpu.max": "max 100000", "a/b/cpu.max": "200000 100000"}, 2.0),
        # Nested: the smallest on the way up.
        (
            "0::/a/b/c\n",
            V2.format(top="/"),
            {"a/cpu.max": "300000 100000", "a/b/cpu.max": "50000 100000", "a/b/c/cpu.max": "max 100000"},
            0.5,
        ),
        # A sibling's limit is not ours.
        ("0::/a/b\n", V2.format(top="/"), {"a/b/cpu.max": "max 100000", "a/x/cpu.max": "10000 100000"}, None),
        # A container without a namespace of its own sees its group as the mount's root.
        ("0::/docker/1f\n", V2.format(top="/docker/1f"), {"cpu.max": "250000 100000"}, 2.5),
        (
            "0::/docker/1f/in\n",
            V2.format(top="/docker/1f"),
            {"in/cpu.max": "100000 100000", "cpu.max": "max 100000"},
            1.0,
        ),
        # A group outside of what is mounted: what is mounted counts.
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
def test_the_smallest_quota_on_the_way_up_counts(
    tmp_path: Path, own: str, mounts: str, files: dict[str, str], want: float | None
) -> None:
    assert quota.processors(tree(tmp_path, own, mounts, files)) == want


@pytest.mark.parametrize(
    ("own", "mounts", "files", "want"),
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
def test_memory_that_is_left_does_not_count_the_file_cache(
    tmp_path: Path, own: str, mounts: str, files: dict[str, str], want: int | None
) -> None:
    root = tree(tmp_path, own, mounts, files)
    assert quota.memory_left(root) == want
    assert quota.memory_available(root) == (8_000_000 * 1024 if want is None else want)


@pytest.mark.parametrize(("limit", "want"), [(2.9, 2), (1.5, 1), (0.3, 1), (64.0, 4), (None, 4)])
def test_threads_are_whole_within_quota_and_affinity(
    monkeypatch: pytest.MonkeyPatch, limit: float | None, want: int
) -> None:
    monkeypatch.setattr(quota, "processors", lambda root=None: limit)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    assert quota.usable_processors() == want
    assert machine.cores() <= want


def said(made: Path, code: str, **variables: str) -> str:
    """What Python code prints inside a control group."""
    # The deployed server, which other tests of this process import, sets the threads of all libraries.
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")} | variables
    return subprocess.run(
        [*join_command(made), sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        text=True,
        capture_output=True,
        check=True,
    ).stdout.strip()


needs_two = pytest.mark.skipif(len(machine.affinity()) < 2, reason="a quota of one processor limits nothing on one")


@needs_two
def test_burnish_keeps_to_the_quota_of_its_own_group() -> None:
    with group("cpu", 100_000) as made:
        assert said(made, "from tasks import machine; print(machine.cores())") == "1"
        threads = "from tasks import machine; machine.keep_to_quota(); import torch; print(torch.get_num_threads())"
        assert said(made, threads) == "1"
        # what the user says stays
        assert said(made, threads, OMP_NUM_THREADS="2") == "2"


@needs_two
def test_a_deployed_server_keeps_to_the_quota_of_its_own_group(tmp_path: Path) -> None:
    work = Work.at(tmp_path, "deploy")
    run = FinishedRun(tmp_path, work, digits(work, 60), Data(source="digits"))
    run.summarise({("lenet5/train/onnx", "onnxruntime"): 1.0}, threads=2)
    folder = run.deploy(tmp_path / "served")
    assert json.loads((folder / "model.json").read_text())["threads"] == 2
    with running(folder) as server:
        pass
    assert "lenet5/train/onnx: threads per query 2," in server.output
    with group("cpu", 100_000) as made, running(folder, prefix=join_command(made)) as server:
        pass
    assert "the model was measured with 2 threads; this machine or container has 1 for it" in server.output
    assert "lenet5/train/onnx: threads per query 1, decoders 1" in server.output


def test_memory_of_a_real_group_is_told() -> None:
    with group("memory", 300 << 20) as made:
        told = said(made, "from tasks.machine import quota; print(quota.memory_left(), quota.memory_available())")
        left, available = map(int, told.split())
        assert 0 < left <= 300 << 20
        assert 0 < available <= 300 << 20
