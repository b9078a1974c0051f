"""Runs both sides as processes that stay up, so that each starts once."""

import contextlib
import json
import os
import pathlib
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from plankton_jax.errors import InputError

ROOT = pathlib.Path(__file__).parents[2]
DETERMINISTIC = '--xla_gpu_deterministic_ops=true'


class Worker:
  """One contestant's process.

  Neither side reserves all of the device's memory, so that both fit.

  Args:
    module: of this package.
    wheels: a folder with wheels to import from, or None.
    flags: for XLA.
  """

  def __init__(
    self, module: str, *, wheels: pathlib.Path | None = None, flags: str = ''
  ):
    self.name = module
    environment = {
      'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
      **os.environ,
      'PYTHONPATH': os.pathsep.join(_paths(wheels)),
    }
    # XLA takes flags without a leading dash for a file name.
    given = [*os.environ.get('XLA_FLAGS', '').split(), *flags.split()]
    if given:
      environment['XLA_FLAGS'] = ' '.join(given)
    self._process = process = subprocess.Popen(
      [sys.executable, '-m', f'benchmarks.accelerator.{module}'],
      cwd=ROOT,
      env=environment,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    assert process.stdin and process.stdout and process.stderr  # pipes
    self._asked = process.stdin
    self._answers: queue.Queue[str | None] = queue.Queue()  # None at its end
    self._said: list[str] = []
    self._threads = [
      threading.Thread(target=listen, args=(pipe,), daemon=True)
      for listen, pipe in (
        (self._hear_answers, process.stdout),
        (self._hear_errors, process.stderr),
      )
    ]
    for thread in self._threads:
      thread.start()

  def tell(self, message: dict[str, Any]) -> None:
    """Writes a message to the process."""
    with contextlib.suppress(BrokenPipeError):  # `hear` reports that it ended
      print(json.dumps(message), file=self._asked, flush=True)

  def hear(self, seconds: float) -> dict[str, Any]:
    """Reads the next answer.

    Raises:
      InputError: no answer came in time, or the process ended.
    """
    try:
      line = self._answers.get(timeout=max(seconds, 0.1))
    except queue.Empty:
      raise InputError(f'{self.name}: no answer in {seconds:.0f} s') from None
    if line is None:
      self._threads[1].join(timeout=5)  # or its last words are not read yet
      last = self._said[-1].strip() if self._said else 'it said nothing'
      raise InputError(f'{self.name} ended: {last}')
    return json.loads(line)

  def close(self) -> None:
    """Kills the process."""
    self._process.kill()
    for thread in self._threads:
      thread.join()
    with contextlib.suppress(BrokenPipeError), self._process:
      pass  # it closes the pipes and waits for the end

  def _hear_answers(self, pipe):
    for line in pipe:
      self._answers.put(line)
    self._answers.put(None)

  def _hear_errors(self, pipe):
    for line in pipe:
      self._said = [*self._said[-50:], line]


@contextlib.contextmanager
def closing(workers: dict[str, Worker]) -> Iterator[None]:
  """Ends all workers that are left at the end."""
  try:
    yield
  finally:
    for worker in workers.values():
      worker.close()


def _paths(wheels: pathlib.Path | None) -> Sequence[str]:
  """Lists the paths to import from; pure Python wheels need no install."""
  own = os.environ.get('PYTHONPATH')
  found = sorted(map(str, wheels.resolve().glob('*.whl'))) if wheels else []
  return [*found, *([own] if own else [])]
