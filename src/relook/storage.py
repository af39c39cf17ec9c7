"""Files at addresses such as s3://bucket/photos, on any file system that PyArrow knows.

An address is a URI: `scheme://authority/path?options`, with the path percent-encoded where it holds
`?` or `%` (spaces and other letters may stand as they are). The options are those that PyArrow
takes, such as `region` and `endpoint_override`. Credentials come from the environment, as the
stores' own tools read them:

| address | credentials | endpoint of another server |
|---|---|---|
| `s3://bucket/…` | AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the role of the machine | AWS_ENDPOINT_URL, or `?endpoint_override=host:port&scheme=http` |
| `gs://bucket/…` | GOOGLE_APPLICATION_CREDENTIALS or gcloud's default; `gs://anonymous@bucket/…` for none | `?endpoint_override=host:port&scheme=http` |
| `abfs://container@account.dfs.core.windows.net/…` | AZURE_CLIENT_ID and the like, or az login | |
| `hdfs://namenode:port/…` | Kerberos; needs Java and Hadoop (JAVA_HOME, HADOOP_HOME, CLASSPATH) | |

PyArrow asks S3 again for a few seconds if it cannot be reached, Google for 15 minutes unless the
address says `?retry_limit_seconds=60`.
"""  # noqa: E501 - a table

from __future__ import annotations

import functools
import os
import posixpath
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal, TypeGuard
from urllib.parse import quote, unquote
from uuid import uuid4

from relook.errors import RelookError, first_line

_ADDRESS = re.compile(
    # A scheme has two letters or more: C:\photos is a path on Windows.
    r"(?P<scheme>[a-z][a-z0-9+.-]+)://(?P<authority>[^/?]*)(?P<path>[^?]*)(?P<options>\?.*)?",
    re.IGNORECASE | re.DOTALL,
)
_PASSWORD = re.compile(r"//[^/@?:]*:[^?]*@")
"""A name and a password, which may hold a slash that should have been written as %2F."""

_OBJECT_STORES = frozenset({"s3", "gs", "gcs", "abfs", "abfss"})
"""Schemes of stores where a file appears when all of it has been written."""

_WRITING = ".writing"

_NO_BUCKET = "there is no such bucket; create it, or check the address"
_NO_ACCESS = "access is denied; check the credentials and the bucket's permissions"
_NO_SERVER = "the server cannot be reached; check the network and the endpoint"
_REASONS = {
    "AWS Error NO_SUCH_BUCKET": _NO_BUCKET,
    "AWS Error ACCESS_DENIED": _NO_ACCESS,
    "AWS Error INVALID_ACCESS_KEY_ID": "the access key is unknown; check the credentials",
    "AWS Error SIGNATURE_DOES_NOT_MATCH": "the secret key is wrong; check the credentials",
    "AWS Error NETWORK_CONNECTION": _NO_SERVER,
    "google::cloud::Status(PERMISSION_DENIED": _NO_ACCESS,
    "google::cloud::Status(UNAUTHENTICATED": _NO_ACCESS,
    "google::cloud::Status(UNAVAILABLE": _NO_SERVER,
    "Unrecognized filesystem type": (
        "no such kind of storage is known; use s3://, gs://, abfs:// or hdfs://"
    ),
}
"""What PyArrow writes of frequent errors, and what it means."""

TABLES = frozenset({".csv", ".tsv", ".parquet"})
"""Suffixes of tables, in lower case."""

_LONGEST = 200
_REQUEST = re.compile(r" *\(Request ID: [^)]*\)")


class StorageError(RelookError):
    """A file at an address cannot be read or written: no bucket, no access, no network."""


def is_address(name: object) -> TypeGuard[str]:
    r"""Whether a name is an address, not a path on this machine.

    >>> from relook.storage import is_address
    >>> is_address("s3://bucket/photos"), is_address("photos"), is_address("C:\\photos")
    (True, False, False)
    """
    return isinstance(name, str) and _ADDRESS.fullmatch(name) is not None


def is_table(name: str | os.PathLike[str]) -> bool:
    """Whether the name or address of a file ends as that of a table.

    >>> from relook.storage import is_table
    >>> is_table("photos.csv"), is_table("s3://bucket/photos.parquet?region=eu"), is_table("photos")
    (True, True, False)
    """
    name = shown(name) if is_address(name) else name
    return os.path.splitext(name)[1].lower() in TABLES


def shown(address: str) -> str:
    """An address as people read it: without a password, options and percent signs.

    >>> from relook.storage import shown
    >>> shown("s3://key:secret@bucket/my%20photos?region=eu-west-1")
    's3://bucket/my photos'
    """
    scheme, authority, path, _ = _parts(address)
    return unquote(_PASSWORD.sub("//", f"{scheme}://{authority}{path}"))


def joined(address: str, name: str) -> str:
    """The address of a file below a folder's address; the name is not percent-encoded.

    >>> from relook.storage import joined
    >>> joined("s3://bucket/run?region=eu-west-1", "rows/100%.png")
    's3://bucket/run/rows/100%25.png?region=eu-west-1'
    """
    scheme, authority, path, options = _parts(address)
    return f"{scheme}://{authority}{path.rstrip('/')}/{quote(name)}{options}"


def folder_of(address: str) -> str:
    """The address of the folder that a file is in.

    >>> from relook.storage import folder_of
    >>> folder_of("s3://bucket/lists/photos.csv?region=eu-west-1")
    's3://bucket/lists?region=eu-west-1'
    """
    scheme, authority, path, options = _parts(address)
    return f"{scheme}://{authority}{posixpath.dirname(path).rstrip('/')}{options}"


def is_object_store(address: str) -> bool:
    """Whether a file at this address appears only when all of it has been written."""
    return _parts(address)[0].lower() in _OBJECT_STORES


def open_file(address: str) -> Any:
    """Open a file for reading at any position.

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: it cannot be read.
    """
    with _told(address, "read"):
        files, path = _located(address)
        return files.open_input_file(path)


def read(address: str) -> bytes:
    """Read a file.

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: it cannot be read.
    """
    with _told(address, "read"), open_file(address) as file:
        content: bytes = file.read()
    return content


def write(address: str, content: bytes) -> None:
    """Write a file completely or, if interrupted, not at all.

    Raises:
        StorageError: it cannot be written.
    """
    with _told(address, "written"):
        files, path = _located(address)
        if is_object_store(address):
            _put(files, path, content)
            return
        files.create_dir(posixpath.dirname(path), recursive=True)
        # A name of its own, since two processes may write one file, and hidden from readers.
        name = f".{posixpath.basename(path)}.{uuid4().hex[:8]}{_WRITING}"
        beside = posixpath.join(posixpath.dirname(path), name)
        _put(files, beside, content)
        if kind_of(address) == "file":  # HDFS does not move a file over another
            files.delete_file(path)
        files.move(beside, path)


def delete(address: str) -> None:
    """Delete a file, if there is one.

    Raises:
        StorageError: it cannot be deleted.
    """
    with _told(address, "deleted"):
        files, path = _located(address)
        with suppress(FileNotFoundError):
            files.delete_file(path)


def kind_of(address: str) -> Literal["file", "folder", "nothing"]:
    """Return what there is at an address.

    Raises:
        StorageError: this cannot be found out.
    """
    from pyarrow.fs import FileType

    with _told(address, "read"):
        files, path = _located(address)
        kind = files.get_file_info(path).type
    known: dict[Any, Literal["file", "folder"]] = {
        FileType.File: "file",
        FileType.Directory: "folder",
    }
    return known.get(kind, "nothing")


def files_in(address: str, deep: bool = False) -> list[tuple[str, int]]:
    """List the files in a folder.

    Args:
        address: the folder.
        deep: list the files in its subfolders too.

    Returns:
        The path relative to the folder, not percent-encoded, and the size in bytes of each file.

    Raises:
        FileNotFoundError: there is no such folder.
        StorageError: it cannot be read.
    """
    from pyarrow.fs import FileSelector, FileType

    with _told(address, "read"):
        files, path = _located(address)
        found = files.get_file_info(FileSelector(path, recursive=deep))
    start = len(path.rstrip("/")) + 1 if path else 0
    return [(file.path[start:], file.size) for file in found if file.type == FileType.File]


def _put(files: Any, path: str, content: bytes) -> None:
    with files.open_output_stream(path, compression=None) as stream:
        stream.write(content)


def _parts(address: str) -> tuple[str, str, str, str]:
    """Scheme, authority, path and options of an address."""
    match = _ADDRESS.fullmatch(address)
    assert match is not None, address
    return match["scheme"], match["authority"], match["path"], match["options"] or ""


def _located(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path there."""
    scheme, authority, path, options = _parts(address)
    files, root = _file_system(f"{scheme}://{authority}/{options}")
    inside = unquote(path).strip("/")
    return files, f"{root.rstrip('/')}/{inside}".rstrip("/") if root else inside


@functools.cache
def _file_system(root: str) -> tuple[Any, str]:
    """The file system at an address without a path, and the path there; one for each process.

    Finding the region of a bucket takes a request, which need not be repeated for each image.
    """
    from pyarrow.fs import FileSystem

    files, path = FileSystem.from_uri(root)
    return files, path


@contextmanager
def _told(address: str, done: str) -> Iterator[None]:
    """Turn what PyArrow raises into StorageError; FileNotFoundError stays.

    Args:
        address: the address that the message names.
        done: what cannot be done with it, as in "cannot be read".
    """
    import pyarrow

    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, pyarrow.ArrowException) as error:
        raise StorageError(f"{shown(address)}: cannot be {done}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Why a file system failed, in one line, with what to do about it."""
    text = str(error)
    for written, reason in _REASONS.items():
        if written in text:
            return reason
    if "://" in text:  # the address, and in it perhaps a password
        return "it cannot be read as an address; write a slash in a key or password as %2F"
    line = _REQUEST.sub("", first_line(error))
    line = line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
    return f"{line}; check the address and the credentials"
