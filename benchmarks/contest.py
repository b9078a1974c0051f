"""Measures two processes in turn: ours, peer, ours, peer, …"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple

from benchmarks.serve import cores
from plankton_jax.errors import InputError

ROOT = pathlib.Path(__file__).parents[1]
PAUSE = 0.2  # seconds, for the other's threads to stop spinning
AGREE = 1e-3  # relative difference allowed between the results of both
LISTEN = 0.2  # further seconds, to measure what else runs on the machine


class Times(NamedTuple):
  """Seconds a call, in order; `peer` is empty without one."""

  ours: list[float]
  peer: list[float]
  facts: dict[str, Any]  # facts of our worker about its job
  busy: float  # mean share of the cores that others used between timings


class Ratio(NamedTuple):
  """Our speed as a multiple of the peer's: above 1 we are faster."""

  median: float  # of the medians
  low: float  # the extremes over the pairs measured side by side
  high: float


def ratio(times: Times) -> Ratio | None:
  """Divides the peer's seconds by ours; None without a peer."""
  if not times.peer:
    return None
  pairs = [p / o for o, p in zip(times.ours, times.peer, strict=True)]
  middle = statistics.median(times.peer) / statistics.median(times.ours)
  return Ratio(middle, min(pairs), max(pairs))


def need(python: str, names: str) -> None:
  """Checks that an interpreter has the peers, such as 'torch, PIL'.

  Raises:
    InputError: it lacks one.
  """
  try:
    subprocess.run(
      [python, '-c', f'import {names}'], check=True, capture_output=True
    )
  except (OSError, subprocess.CalledProcessError):
    raise InputError(
      f'{python} lacks one of {names}: install requirements-bench.txt there,'
      ' or name another by --peer_python'
    ) from None


def race(
  spec: dict[str, Any],
  *,
  repeats: int,
  peer_python: str | None,
  rival: dict[str, Any] | None = None,
) -> Times:
  """Measures one job in both workers, `repeats` times in turn.

  Args:
    spec: `job` and its fields, for both workers.
    repeats: timings of each.
    peer_python: the peer's interpreter; None measures ours alone.
    rival: a job of our own that takes the peer's place.

  Raises:
    InputError: a worker failed, or the two found different results.
  """
  with contextlib.ExitStack() as stack:
    ours = stack.enter_context(opened('ours', sys.executable, spec))
    facts = ours.hear()
    peer = None
    if rival:
      peer = stack.enter_context(opened('ours', sys.executable, rival))
    elif peer_python:
      if 'parameters' in facts:
        same = {name: facts[name] for name in ('parameters', 'flops')}
        spec = spec | {'expected': same}
      peer = stack.enter_context(opened('peer', peer_python, spec))
    if peer and (text := disagreement(facts, peer.hear())):
      raise InputError(f'{spec}: {text}')
    seconds: dict[Worker | None, list[float]] = {ours: [], peer: []}
    busy = []
    for _ in range(repeats):
      for worker in filter(None, (ours, peer)):
        time.sleep(PAUSE)
        busy.append(_busy(LISTEN))
        worker.tell('again')
        seconds[worker].append(worker.hear()['seconds'])
    return Times(seconds[ours], seconds[peer], facts, statistics.fmean(busy))


def _busy(seconds: float) -> float:
  """Measures the share of busy cores while we sleep; NaN outside Linux."""
  path = pathlib.Path('/proc/stat')
  if not path.exists():
    return math.nan
  before = _ticks(path.read_text())
  time.sleep(seconds)
  after = _ticks(path.read_text())
  return 1.0 - (after[0] - before[0]) / max(after[1] - before[1], 1)


def _ticks(stat: str) -> tuple[int, int]:
  """Reads (idle, all) ticks of all cores: proc(5), /proc/stat."""
  # user nice system idle iowait irq softirq steal; guests are in user.
  ticks = [int(x) for x in stat.partition('\n')[0].split()[1:9]]
  return ticks[3] + ticks[4], sum(ticks)


def disagreement(ours: dict[str, Any], peer: dict[str, Any]) -> str:
  """Names a result of the peer's that is not ours; '' if there is none.

  It is to do the same work: doing less must not win.
  """
  for name, other in peer.get('checks', {}).items():
    value = ours['checks'][name]
    if not abs(value - other) <= AGREE * max(abs(value), abs(other)):
      return f'{name} is {value} for us, {other} for the peer'
  return ''


@dataclasses.dataclass(frozen=True, eq=False)
class Worker:
  """A contestant's process, which answers in lines of JSON."""

  name: str
  process: subprocess.Popen
  errors: IO[str]

  def tell(self, line: str) -> None:
    """Writes a line to the process."""
    with contextlib.suppress(BrokenPipeError):  # `hear` says that it ended
      print(line, file=self.process.stdin, flush=True)

  def hear(self, seconds: float | None = None) -> dict[str, Any]:
    """Reads the next answer, for which it waits so long, or else for ever.

    Raises:
      InputError: no answer came in time, or the process ended instead.
    """
    answers = self.process.stdout
    assert answers  # a pipe
    if not select.select([answers], [], [], seconds)[0]:
      raise InputError(f'{self.name}: no answer in {seconds:.0f} s')
    if line := answers.readline():
      return json.loads(line)
    self.process.wait()
    said = self.complaints()
    last = said.splitlines()[-1] if said else 'it said nothing'
    raise InputError(f'{self.name} ended: {last}')

  def complaints(self) -> str:
    """Reads what it wrote to stderr."""
    self.errors.seek(0)
    return self.errors.read().strip()


@contextlib.contextmanager
def running(
  name: str, command: Sequence[str], environment: Mapping[str, str]
) -> Iterator[Worker]:
  """Yields a worker, and ends its input afterwards; kills it on an error.

  Args:
    name: for messages.
    command: to run from ROOT.
    environment: the variables that it sees.
  """
  with (
    contextlib.suppress(BrokenPipeError),  # it ended before its input
    tempfile.TemporaryFile('w+') as errors,
    subprocess.Popen(
      command,
      cwd=ROOT,
      env=environment,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=errors,
      text=True,
    ) as process,
  ):
    try:
      yield Worker(name, process, errors)
    except BaseException:
      process.kill()
      raise


@contextlib.contextmanager
def opened(module: str, python: str, spec: dict[str, Any]) -> Iterator[Worker]:
  """Runs a module of this package on a job; shows what it says of a failure."""
  command = [python, '-m', f'benchmarks.{module}', json.dumps(spec)]
  environment = {**os.environ, 'OMP_NUM_THREADS': str(cores())}
  with running(f'{module} of {spec}', command, environment) as worker:
    try:
      yield worker
    except InputError:
      print(worker.complaints(), file=sys.stderr)
      raise
