"""Prepares one job after another for a contestant, and times it on request.

Reads one line of JSON at a time. {"job": name, "least_s": seconds, ...}
prepares the job with its other fields, and is answered with its facts and the
'calls' that fill a timing. {"measure": true} is answered with the seconds of a
call. An error is answered as {"error": text}, and the next job may still run.
"""

import gc
import json
import math
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from benchmarks.serve import channel, time_calls

SLOW = 2.0  # seconds of a call that is not repeated to warm up

# (run, facts): run(n) does the work n times and waits until it is
# done; None if there is nothing to time.
Job = tuple[Callable[[int], Any] | None, dict[str, Any]]


def serve(
  jobs: dict[str, Callable[..., Job]], release: Callable[[], None]
) -> None:
  """Answers every line of stdin, to its end.

  Args:
    jobs: by name.
    release: gives back the memory of the last job.
  """
  answer = channel()
  run, calls = None, 1
  for line in sys.stdin:
    asked = json.loads(line)
    try:
      if 'job' in asked:
        run, least_s = None, asked.pop('least_s')
        gc.collect()
        release()
        began = time.perf_counter()
        run, facts = jobs[asked.pop('job')](**asked)
        facts['prepared'] = time.perf_counter() - began
        if run is not None:
          facts['calls'] = calls = _calls(run, least_s)
        answer(facts)
      else:
        assert run is not None, 'no job is prepared'
        answer({'seconds': time_calls(run, calls) / calls})
    except Exception as error:  # If a row fails, the others go on.
      traceback.print_exc()
      text = str(error).strip() or 'no message'
      answer({'error': f'{type(error).__name__}: {text.splitlines()[0]}'})


def _calls(run, least_s):
  """Counts the calls that fill a timing; slow work is called only once."""
  seconds = time_calls(run, 1)
  if seconds < SLOW:
    seconds = time_calls(run, 1)  # the first may have compiled
  return max(1, math.ceil(least_s / seconds))
