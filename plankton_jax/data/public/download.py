"""Downloads a large file over HTTP: resumes where it stopped, hashes the whole.

FILE.part grows beside FILE. Later runs verify FILE against FILE.sha256, which
is written as sha256sum does.
"""

import hashlib
import http.client
import shutil
import time
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from plankton_jax.errors import InputError
from plankton_jax.files import atomic

PATIENCE = 5  # attempts in a row without a byte, until it gives up
PAUSE = 2.0  # seconds to wait after one, doubled for each without a byte

_CHUNK = 2**20
_LOST = (urllib.error.URLError, http.client.HTTPException, OSError)


def size(url: str) -> int | None:
  """Asks the server for the size of a file, bytes; None if it does not say.

  Raises:
    InputError: there is no such file, or no connection.
  """
  try:
    with _open(urllib.request.Request(url, method='HEAD')) as answer:
      return _length(answer)
  except urllib.error.HTTPError as error:
    if error.code in (404, 410):
      raise _gone(url, error) from error
    return None  # Some refuse HEAD; the download itself will tell.
  except _LOST as error:
    raise InputError(
      f'{url}: {_reason(error)}; try again, or give the file with --archive'
    ) from error


def fetch(url: str, file: Path) -> None:
  """Downloads a file, or verifies it if it is already there.

  Raises:
    InputError: the address is gone, the connection is lost for good, the disk
      is too small, or the file does not match its recorded hash.
  """
  if file.exists():
    verify(file)
    return
  file.parent.mkdir(parents=True, exist_ok=True)
  part = file.with_name(file.name + '.part')
  failures = 0
  while True:
    before = part.stat().st_size if part.exists() else 0
    try:
      _append(url, part)
      break
    except urllib.error.HTTPError as error:
      if error.code < 500:
        raise _gone(url, error) from error
      reason = _reason(error)
    except _LOST as error:
      reason = _reason(error)
    got = part.stat().st_size if part.exists() else 0
    failures = 0 if got > before else failures + 1
    if failures == PATIENCE:
      raise InputError(
        f'{url}: {reason}, with {got:,} bytes in {part}; the same command'
        ' resumes there'
      )
    time.sleep(PAUSE * 2.0**failures)
  digest = sha256(part)
  atomic.text(_record(file), f'{digest}  {file.name}\n')
  part.replace(file)
  _tag(part).unlink(missing_ok=True)


def verify(file: Path) -> None:
  """Checks a file against the hash recorded beside it, if there is one.

  Raises:
    InputError: the file does not match.
  """
  record = _record(file)
  if not record.exists():
    return
  if record.read_text(encoding='utf-8').split()[:1] != [sha256(file)]:
    raise InputError(
      f'{file} is not what {record.name} says: delete both and get it again'
    )


def sha256(file: Path) -> str:
  """Hashes a file to SHA-256 hexadecimal digits, with a progress bar."""
  state = hashlib.sha256()
  with file.open('rb') as stream, _bar('verify', file.stat().st_size) as bar:
    while chunk := stream.read(_CHUNK):
      state.update(chunk)
      bar.update(len(chunk))
  return state.hexdigest()


def _append(url: str, part: Path) -> None:
  """Downloads the rest of a file; returns only once it is whole."""
  done = part.stat().st_size if part.exists() else 0
  request = urllib.request.Request(url)
  tag = _tag(part).read_text() if _tag(part).exists() else ''
  if done and tag:
    request.add_header('Range', f'bytes={done}-')
    request.add_header('If-Range', tag)  # a changed file comes whole
  try:
    answer = _open(request)
  except urllib.error.HTTPError as error:
    if error.code != 416:
      raise
    # The server has no further bytes: the file is whole, or is another one.
    if error.headers.get('Content-Range') == f'bytes */{done}':
      return
    part.unlink()
    raise http.client.HTTPException('the file is another one now') from error
  with answer:
    if answer.status != 206:
      done = 0
    length = _length(answer)
    total = None if length is None else done + length
    _check_space(part, length)
    _tag(part).write_text(_version(answer))
    with (
      part.open('ab' if done else 'wb') as stream,
      _bar(part.stem, total, done) as bar,
    ):
      while chunk := answer.read(_CHUNK):
        stream.write(chunk)
        bar.update(len(chunk))
  got = part.stat().st_size
  if total is not None and got != total:
    raise http.client.HTTPException(f'the connection broke at byte {got:,}')


def _open(request: urllib.request.Request) -> http.client.HTTPResponse:
  request.add_header('User-Agent', 'plankton_jax')
  return urllib.request.urlopen(request, timeout=60)


def _version(answer: http.client.HTTPResponse) -> str:
  """Returns the server's tag of this version of the file, or ''."""
  tag = answer.headers.get('ETag', '')
  # Files with one weak tag may differ in their bytes.
  if tag and not tag.startswith('W/'):
    return tag
  return answer.headers['Last-Modified'] or ''


def _length(answer: http.client.HTTPResponse) -> int | None:
  length = answer.headers.get('Content-Length', '')
  return int(length) if length.isdigit() else None


def _check_space(part: Path, length: int | None) -> None:
  free = shutil.disk_usage(part.parent).free
  if length is not None and length > free:
    raise InputError(
      f'{part.parent} has {free / 1e9:.1f} GB free and {length / 1e9:.1f} GB'
      ' are to come: make room or choose another --data_dir'
    )


def _bar(what: str, total: int | None, done: int = 0) -> tqdm:
  return tqdm(
    total=total,
    initial=done,
    desc=what,
    unit='B',
    unit_scale=True,
    unit_divisor=1000,
    delay=0.5,
  )


def _record(file: Path) -> Path:
  return file.with_name(file.name + '.sha256')


def _tag(part: Path) -> Path:
  return part.with_name(part.name + '.version')


def _reason(error: Exception) -> str:
  reason = getattr(error, 'reason', None) or str(error) or type(error).__name__
  return str(reason)


def _gone(url: str, error: urllib.error.HTTPError) -> InputError:
  return InputError(
    f'{url}: HTTP {error.code} {error.reason}; if the file has moved, get it'
    ' from its DOI and give it with --archive'
  )
