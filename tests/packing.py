"""Archives for tests: names and bytes to tar, tar.gz and zip."""

import gzip
import io
import struct
import tarfile
import zipfile
import zlib

import numpy as np
from PIL import Image


def picture(seed, shape=(9, 11)):
  """PNG bytes of an image that no other seed gives."""
  pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
  stream = io.BytesIO()
  Image.fromarray(pixels).save(stream, 'PNG')
  return stream.getvalue()


def bomb(side=60_000):
  """A PNG that says it is of side x side px, and holds none of them."""
  return png(8, 0, b'\0' * 100, side)


def png(bits, colours, data, side=1):
  """A PNG of side x side px, of the kinds that PIL does not write, too."""

  def chunk(kind, data):
    check = struct.pack('>I', zlib.crc32(kind + data))
    return struct.pack('>I', len(data)) + kind + data + check

  header = struct.pack('>IIBBBBB', side, side, bits, colours, 0, 0, 0)
  pixels = chunk(b'IDAT', zlib.compress(data))
  return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + pixels


def tar(path, files, mode='w', links=()):
  """Writes {name: bytes} and (name, target) symbolic links."""
  with tarfile.open(path, mode) as archive:
    for name, target in links:
      info = tarfile.TarInfo(name)
      info.type, info.linkname = tarfile.SYMTYPE, target
      archive.addfile(info)
    for name, data in files.items():
      info = tarfile.TarInfo(name)
      info.size = len(data)
      archive.addfile(info, io.BytesIO(data))
  return path


def pack_zip(path, files, links=()):
  with zipfile.ZipFile(path, 'w') as archive:
    for name, target in links:
      info = zipfile.ZipInfo(name)
      info.external_attr = 0o120777 << 16
      archive.writestr(info, target)
    for name, data in files.items():
      archive.writestr(name, data)
  return path


def taxa(rows):
  """taxa.csv.gz of (objid, taxon, lineage, set)."""
  lines = ['objid,taxon,lineage,set', *(','.join(row) for row in rows)]
  return gzip.compress('\n'.join(lines).encode())


def tree(root, files):
  """Writes {name: bytes} as files below a folder."""
  for name, data in files.items():
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
  return root
