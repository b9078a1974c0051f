"""What processes do with images; they import this, and not JAX, for it."""

from plankton_jax.data import pictures


def record(
  fields: tuple[str, int, bytes], *, size: int, resize: str, channels: int
) -> tuple[str, int, int, bytes] | tuple[str, str]:
  """(id, label, digest, fitted pixels) of (id, label, image), or (id, reason).

  The digest is of the original pixels.
  """
  name, label, data = fields
  if label < 0:
    return name, 'no label'
  try:
    picture = pictures.decode(data)
  except ValueError as error:
    return name, str(error)
  fitted = pictures.fit(picture, size=size, resize=resize, channels=channels)
  return name, label, pictures.digest(picture), fitted.tobytes()


def fitted(
  data: bytes | str, *, size: int, resize: str, channels: int
) -> bytes | str:
  """Fitted pixels of an image, or why there are none.

  A reason in place of `data` is the answer.
  """
  if isinstance(data, str):
    return data
  try:
    picture = pictures.decode(data)
  except ValueError as error:
    return str(error)
  settings = {'size': size, 'resize': resize, 'channels': channels}
  return pictures.fit(picture, **settings).tobytes()
