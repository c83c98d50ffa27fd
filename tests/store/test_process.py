from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

from coevo_ray.store.process import Process


def test_this_process_runs() -> None:
    me = Process.current()
    assert me.is_near() and not me.has_ended()


def test_another_process_with_the_pid_of_one_that_ended_is_not_it() -> None:
    me = Process.current()
    assert replace(me, started=str(int(me.started) - 1)).has_ended()


def test_a_process_that_ended_has_ended_before_its_parent_looks() -> None:
    code = "from coevo_ray.store.process import Process; p = Process.current(); print(p.host, p.pid, p.started)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    host, pid, started = child.stdout.read().split()  # to its end: the process is a zombie now, or soon
    there = replace(Process.current(), host=host, pid=int(pid), started=started)
    for _ in range(1000):
        if there.has_ended():
            break
        subprocess.run(["sleep", "0.01"], check=True)
    assert child.returncode is None
    assert there.has_ended()
    child.wait(10)
    assert there.has_ended()


def test_nothing_is_known_of_processes_elsewhere() -> None:
    elsewhere = replace(Process.current(), space="another boot", pid=2**22 + 1)
    assert not elsewhere.is_near() and not elsewhere.has_ended()
    assert not replace(elsewhere, space="").is_near()
