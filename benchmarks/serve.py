"""Prepares and warms up a contestant's job, and times it on request.

The worker is given one JSON object, prints one line of facts when it is warm,
and then one line of JSON for every line that it reads, until there are none.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable
from typing import Any

# (run, facts): run(n) does the work n times and waits until it is done.
Job = tuple[Callable[[int], Any], dict[str, Any]]

LEAST_SECONDS = 0.5  # of one timing; quick work is repeated until it fills it


def serve(jobs: dict[str, Callable[..., Job]]) -> None:
  """Runs the job that the command line's JSON names, with its fields."""
  spec = json.loads(sys.argv[1])
  answer = channel()
  run, facts = jobs[spec.pop('job')](**spec)
  run(1)  # compiles and allocates
  calls = max(1, math.ceil(LEAST_SECONDS / time_calls(run, 1)))
  answer({**facts, 'calls': calls})
  for _ in sys.stdin:
    run(1)  # the system takes memory back from a process that waits
    answer({'seconds': time_calls(run, calls) / calls})


def cores() -> int:
  """Counts the cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def channel() -> Callable[[Any], None]:
  """Makes `answer(value)`, which prints JSON; other prints go to stderr."""
  # Libraries print where they like; the answers keep a way of their own.
  answers = os.fdopen(os.dup(sys.stdout.fileno()), 'w')
  os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
  return lambda value: print(json.dumps(value), file=answers, flush=True)


def each(
  call: Callable[[], Any], wait: Callable[[Any], Any] = lambda result: None
) -> Callable[[int], None]:
  """Makes `run(n)`, which calls `call` n times and waits for the last result.

  `wait(result)` returns when it is done; by default it is already.
  """

  def run(count):
    for _ in range(count):
      result = call()
    wait(result)

  return run


def time_calls(run: Callable[[int], Any], calls: int) -> float:
  """Times `run(calls)`."""
  began = time.perf_counter()
  run(calls)
  return time.perf_counter() - began
