"""Downloads from a server on this machine that breaks off, changes, refuses."""

import contextlib
import hashlib
import http.server
import threading

import pytest

from plankton_jax.data.public import download
from plankton_jax.errors import InputError

CONTENT = bytes(range(256)) * 4000


class Server(http.server.BaseHTTPRequestHandler):
  """Serves `content` in ranges; `plan` says what goes wrong, call by call."""

  content = CONTENT
  tag = '"1"'
  ranges = True
  plan = ()
  seen = ()

  def log_message(self, *args):
    pass

  def do_HEAD(self):
    self.head(200, len(type(self).content))

  def head(self, status, length):
    self.send_response(status)
    self.send_header('Content-Length', str(length))
    if type(self).tag:
      self.send_header('ETag', type(self).tag)
    self.end_headers()

  def do_GET(self):
    kind = type(self)
    kind.seen = (*kind.seen, self.headers.get('Range'))
    what, kind.plan = (kind.plan or (None,))[0], kind.plan[1:]
    if isinstance(what, str):
      self.send_error(int(what))
      return
    start, asked = 0, self.headers.get('Range')
    if asked and kind.ranges and self.headers.get('If-Range') == kind.tag:
      start = int(asked.removeprefix('bytes=').rstrip('-'))
    if start >= len(kind.content):
      self.send_response(416)
      self.send_header('Content-Range', f'bytes */{len(kind.content)}')
      self.end_headers()
      return
    body = kind.content[start:]
    self.head(206 if start else 200, len(body))
    self.wfile.write(body if what is None else body[:what])
    self.close_connection = True


@pytest.fixture
def serve(monkeypatch):
  monkeypatch.setenv('no_proxy', '*')
  monkeypatch.setattr(download, 'PAUSE', 0.0)
  with contextlib.ExitStack() as stack:

    def serve(**settings):
      kind = type('Once', (Server,), settings)
      server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), kind)
      thread = threading.Thread(target=server.serve_forever, args=(0.01,))
      thread.start()
      stack.callback(lambda: (server.shutdown(), server.server_close()))
      return f'http://127.0.0.1:{server.server_port}/set.tar', kind

    yield serve


def names(folder):
  return sorted(path.name for path in folder.iterdir())


def test_a_whole_file_with_its_record(serve, tmp_path):
  url, kind = serve()
  file = tmp_path / 'deep/set.tar'
  assert download.size(url) == len(CONTENT)
  download.fetch(url, file)
  assert file.read_bytes() == CONTENT
  record = (tmp_path / 'deep/set.tar.sha256').read_text()
  assert record == f'{hashlib.sha256(CONTENT).hexdigest()}  set.tar\n'
  assert names(tmp_path / 'deep') == ['set.tar', 'set.tar.sha256']
  download.fetch(url, file)
  assert kind.seen == (None,)  # The second time nothing is asked for.


def test_broken_connections_are_resumed_where_they_broke(serve, tmp_path):
  url, kind = serve(plan=(1000, 50_000, '503', 0, 300_000))
  download.fetch(url, tmp_path / 'set.tar')
  assert (tmp_path / 'set.tar').read_bytes() == CONTENT
  starts = [int(r[6:-1]) if r else 0 for r in kind.seen]
  assert starts == [0, 1000, 51_000, 51_000, 51_000, 351_000]


def test_a_later_run_resumes(serve, tmp_path):
  url, kind = serve(plan=(70_000, *(0,) * download.PATIENCE))
  with pytest.raises(InputError, match=r'70,000 bytes in .*set.tar.part; the'):
    download.fetch(url, tmp_path / 'set.tar')
  assert not (tmp_path / 'set.tar').exists()
  download.fetch(url, tmp_path / 'set.tar')
  assert (tmp_path / 'set.tar').read_bytes() == CONTENT
  assert kind.seen[-1] == 'bytes=70000-'


@pytest.mark.parametrize('change', ['file', 'no ranges', 'no tag'])
def test_old_bytes_are_never_joined_to_another_file(serve, tmp_path, change):
  url, kind = serve(
    plan=(70_000, *(0,) * download.PATIENCE),
    tag='' if change == 'no tag' else '"1"',
  )
  with pytest.raises(InputError):
    download.fetch(url, tmp_path / 'set.tar')
  kind.ranges = change != 'no ranges'
  if change != 'no ranges':
    kind.content, kind.tag = CONTENT[::-1], kind.tag and '"2"'
  download.fetch(url, tmp_path / 'set.tar')
  assert (tmp_path / 'set.tar').read_bytes() == kind.content
  assert names(tmp_path) == ['set.tar', 'set.tar.sha256']


@pytest.mark.parametrize('extra', [0, 10])
def test_a_part_that_is_whole_already_or_too_long(serve, tmp_path, extra):
  url, kind = serve()
  (tmp_path / 'set.tar.part').write_bytes(CONTENT + bytes(extra))
  (tmp_path / 'set.tar.part.version').write_text('"1"')
  download.fetch(url, tmp_path / 'set.tar')
  assert (tmp_path / 'set.tar').read_bytes() == CONTENT
  assert len(kind.seen) == (2 if extra else 1)


def test_another_file_than_recorded_is_refused(serve, tmp_path):
  url, _ = serve()
  file = tmp_path / 'set.tar'
  download.fetch(url, file)
  file.write_bytes(CONTENT[:-1] + b'!')
  with pytest.raises(InputError, match=r'is not what set.tar.sha256 says'):
    download.fetch(url, file)
  (tmp_path / 'set.tar.sha256').unlink()
  download.verify(file)  # Without a record there is nothing to say.


def test_what_cannot_be_had_is_one_line(serve, tmp_path, monkeypatch):
  url, _ = serve(plan=('404',))
  with pytest.raises(InputError, match=r'HTTP 404 .*give it with --archive'):
    download.fetch(url, tmp_path / 'set.tar')
  usage = download.shutil.disk_usage(tmp_path)._replace(free=1000)
  monkeypatch.setattr(download.shutil, 'disk_usage', lambda path: usage)
  with pytest.raises(InputError, match=r'0.0 GB free and 0.0 GB are to come'):
    download.fetch(url, tmp_path / 'set.tar')
  assert not (tmp_path / 'set.tar').exists()
  with pytest.raises(InputError, match=r'Connection refused'):
    download.size('http://127.0.0.1:9/set.tar')
