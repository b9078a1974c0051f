"""Runs a command as one of several processes, by `jax.distributed`."""

import contextlib
import os
import re
import sys
from collections.abc import Iterator

from plankton_jax.cli import command
from plankton_jax.errors import InputError, reason

LOST = 75  # EX_TEMPFAIL: exit status if the same command would go on

_ADDRESS = re.compile(r'.+:\d+')
_HEARTBEAT = 30  # seconds without a sign of life until one counts as lost
_SHUTDOWN = 60  # seconds to wait for the others at the end
# Of what a collective or a barrier raises when its peer is gone.
_GONE = re.compile(
  'gloo|nccl|connection|unavailable|aborted|heartbeat|coordination|barrier',
  re.IGNORECASE,
)


@contextlib.contextmanager
def joined(
  *,
  coordinator: str | None,
  num_processes: int | None,
  process_id: int | None,
  detect: bool,
  interrupted: str,
) -> Iterator[None]:
  """Joins the job's other processes, if there are any, and leaves with them.

  Must begin before the first computation. On a CPU the collectives are gloo's.
  Errors of the body become lines as in `command.errors_as_lines`.

  Args:
    coordinator: host:port of the first process; None for a single process, or
      with `detect`.
    num_processes: of the job.
    process_id: of this process, from 0.
    detect: whether JAX finds what is not given, as Slurm, Kubernetes, MPI or a
      TPU pod says it.
    interrupted: the line printed after Ctrl-C.

  Raises:
    InputError: the arguments do not fit, or the job cannot be joined.
    SystemExit: an error was printed. If another process is lost, the status is
      75 and the process ends at once.
  """
  given = (coordinator, num_processes, process_id)
  if not detect and given == (None, None, None):
    yield
    return
  if not detect and None in given:
    raise InputError(
      'several processes take --coordinator=HOST:PORT, --num_processes and'
      ' --process_id, or --distributed'
    )
  import jax

  _join(coordinator, num_processes, process_id)
  try:
    with command.errors_as_lines(interrupted):
      yield
  except Exception as error:
    if jax.process_count() == 1 or not _GONE.search(str(error)):
      raise
    print(
      f'error: another process of the job is lost ({reason(error)}); the same'
      ' command goes on from the last checkpoint, with any number of processes',
      file=sys.stderr,
      flush=True,
    )
    os._exit(LOST)  # a regular exit would wait for the lost one
  finally:
    sys.stderr.flush()
    jax.distributed.shutdown()


def _join(
  coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
  """Starts JAX's runtime of several processes.

  Raises:
    InputError: a flag is out of range, or the others cannot be reached.
  """
  import jax

  if coordinator is not None and not _ADDRESS.fullmatch(coordinator):
    raise InputError(f'--coordinator={coordinator!r} must be HOST:PORT')
  if num_processes is not None and not 0 <= (process_id or 0) < num_processes:
    raise InputError(
      f'--process_id={process_id} must be 0 to {num_processes - 1}, below'
      ' --num_processes'
    )
  try:
    jax.distributed.initialize(
      coordinator,
      num_processes,
      process_id,
      heartbeat_timeout_seconds=_HEARTBEAT,
      shutdown_timeout_seconds=_SHUTDOWN,
    )
  except (ValueError, RuntimeError) as error:
    raise InputError(
      f'the processes cannot join ({reason(error)}): see that the first one'
      ' runs and --coordinator names it, or give --coordinator, --num_processes'
      ' and --process_id'
    ) from error
