"""The one door to buckets: list, read, put, delete below one prefix, local or in any fsspec store.

`put` is atomic on local disks and in object stores (S3, Google, Azure): a reader sees the old object, the new
one or none, never half of one. Over SFTP, SMB and HDFS fsspec writes in place, and a reader may see a part.
Reading trouble is the case's (`OSError`, turned into a `CaseError` by who reads); writing trouble is the
run's (`RunError`), for a store that takes no results ends every case alike.
"""

import contextlib
import io
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from operator import attrgetter
from stat import S_ISREG
from typing import TYPE_CHECKING, BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from bts import s3_listing
from bts.errors import STORE, UNREADABLE, RunError, UsageError

if TYPE_CHECKING:
    import pyarrow.fs

ATTEMPTS = 8  # of a request to a throttled or failing store, with exponential backoff by the client itself
PATIENCE_S = 20  # without a byte
CREDENTIALS = re.compile("expired|token|credential|signature|AccessKey", re.IGNORECASE)  # in a refusal
OF_RAY = "/runtime_resources/working_dir_files/"  # where Ray unpacks the working directory of a submitted job
HINT = "; give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (on a cluster to every node), "
HINT += "or AWS_NO_SIGN_REQUEST=yes for a public bucket"
WITH_PASSWORD = re.compile(r"://[^/?#:]*:[^/?#]+@")
DATES = ("LastModified", "last_modified", "updated", "mtime", "created")  # of S3, Azure, Google, SFTP, memory


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of a listing: key relative to the store's root, bytes, ETag or size+mtime."""

    key: str
    size: int
    version: str
    modified: float = 0.0
    """When it was written, in seconds since 1970 by the store's clock; 0 where the store does not tell."""


class Store:
    """One prefix of one store, such as `data/cases` or `s3://bucket/prefix`; cheap to pickle."""

    def __init__(self, uri: str):
        uri = str(uri)
        if not uri.strip():
            raise UsageError("an empty path or URI was given; give a folder or s3://bucket/prefix")
        if WITH_PASSWORD.search(uri):
            raise UsageError("a URI holds a password, which reports would show; give it by the environment")
        remote, local = re.sub(r"(?<=[^:/])/+$", "", uri), os.path.abspath(os.path.expanduser(uri))
        self.uri = remote if "://" in uri else local

    def __reduce__(self):
        return Store, (self.uri,)

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    @cached_property
    def _fs_and_root(self) -> tuple[fsspec.AbstractFileSystem, str]:
        try:
            options = _s3_options() if self.uri.startswith(("s3://", "s3a://")) else {}
            fs, root = fsspec.core.url_to_fs(self.uri, **options)
        except (ValueError, ImportError) as error:
            raise UsageError(f"{self.uri}: cannot be opened: {error}") from None
        return fs, root.rstrip("/")

    @property
    def fs(self) -> fsspec.AbstractFileSystem:
        return self._fs_and_root[0]

    @property
    def root(self) -> str:
        return self._fs_and_root[1]

    @property
    def local(self) -> bool:
        return isinstance(self.fs, LocalFileSystem)

    @property
    def _s3(self) -> bool:
        return "s3" in self.fs.protocol

    def path(self, key: str) -> str:
        """Where `key` is within the filesystem, as `fs` and `arrow_fs()` name it."""
        return f"{self.root}/{key}" if key else self.root

    def arrow_fs(self) -> "pyarrow.fs.FileSystem":
        """The same store for Ray and pyarrow; their own S3 client fails on many S3-compatible servers."""
        import pyarrow.fs  # here: a tool that benchmarks compare with has none, and reads our model files

        if self.local:
            return pyarrow.fs.LocalFileSystem()
        if self._s3:
            from bts.arrow_s3 import Handler

            return pyarrow.fs.PyFileSystem(Handler(self.fs))
        return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(self.fs))

    def list(self, prefix: str = "") -> list[Entry]:
        """Every object below `prefix`, sorted by key. A folder that does not exist yet lists as empty.

        Raises RunError when the bucket itself is missing or cannot be reached.
        """
        walk = self._walk_local if self.local else self._walk_remote
        return sorted(walk(prefix), key=attrgetter("key"))

    def keys(self, prefix: str = "") -> set[str]:
        """The keys of `list`, where nothing else of the objects counts: faster on local disks."""
        if not self.local:
            return {entry.key for entry in self._walk_remote(prefix)}
        return {key for key, entry in self._files(prefix) if _is_file(entry)}

    def _walk_local(self, prefix: str) -> Iterator[Entry]:
        for key, entry in self._files(prefix):
            if stat := _stat_of(entry):
                version = f"{stat.st_size}+{stat.st_mtime_ns}"
                yield Entry(key, stat.st_size, version, _written(stat))

    def _files(self, prefix: str) -> Iterator[tuple[str, os.DirEntry]]:
        """What lies in the folders of a local prefix, and is no folder, each with its key."""
        top = self.path(prefix)
        below = os.path.relpath(top, self.root).replace(os.sep, "/")
        real = os.path.realpath(top)
        folders, seen = [(top, "" if below == "." else f"{below}/", real)], {real}
        try:
            while folders:
                folder, key, real = folders.pop()
                inside = []
                for entry in _scan(folder):
                    if _is_folder(entry):
                        # A link back to a folder above would never end.
                        path = os.path.realpath(entry.path) if entry.is_symlink() else f"{real}/{entry.name}"
                        if path not in seen:
                            seen.add(path)
                            inside.append((entry.path, f"{key}{entry.name}/", path))
                    elif not entry.name.startswith(".tmp-"):
                        yield key + entry.name, entry
                folders += reversed(inside)
        except OSError as error:
            if os.path.isfile(self.root):
                raise UsageError(f"{self.uri}: is a file; give a folder") from error
            raise RunError(f"{error.filename or self.uri}: cannot be listed: {_reason(error)}") from error

    def _walk_remote(self, prefix: str) -> Iterator[Entry]:
        try:
            top = self.path(prefix)
            found = s3_listing.find(self.fs, top) if self._s3 else self.fs.find(top, detail=True)
            bucket = self.root.split("/")[0]
            # A missing prefix is an empty one; a missing bucket is a mistake that must not look like that. S3
            # has told by then, and lets only those ask for the bucket itself who may list all of it.
            if not found and not self._s3 and not self.fs.exists(bucket):
                raise FileNotFoundError(f"there is no bucket {bucket}")
        except FileNotFoundError as error:
            raise RunError(f"{self.uri}: {_reason(error)}") from error
        except Exception as error:  # each store raises its own classes
            raise RunError(f"{self.uri}: cannot be listed: {_reason(error)}") from error
        for path, info in found.items():
            if info.get("type") != "directory":
                yield Entry(path[len(self.root) + 1 :], info["size"], *self._version(path, info))

    def _version(self, path: str, info: dict) -> tuple[str, float]:
        """(version, when it was written) of an object; each kind of store has its own words."""
        etag = next((info[name] for name in ("ETag", "etag", "md5Hash") if info.get(name)), "")
        date = next((info[name] for name in DATES if info.get(name)), "")
        if not (etag or date):
            raise RunError(f"{self.uri}: this kind of store does not tell when {path} was last changed")
        written = date.timestamp() if isinstance(date, datetime) else date
        written = float(written) if isinstance(written, (int, float)) else 0.0
        return str(etag).strip('"') or f"{info['size']}+{date}", written

    def read(self, key: str) -> bytes:
        """The whole object. Raises OSError (FileNotFoundError where there is none)."""
        if self.local:
            with open(self.path(key), "rb") as file:
                return file.read()
        # Otherwise s3fs asks for the size first, to fetch pieces side by side: two requests an object.
        how = {"max_concurrency": 1} if self._s3 else {}
        try:
            return self.fs.cat_file(self.path(key), **how)
        except PermissionError as error:
            if self._s3 and not s3_listing.lists(self.fs, self.path(key)):
                raise FileNotFoundError(f"there is no {key}") from error
            raise
        except OSError:
            raise
        except Exception as error:  # botocore's and aiohttp's own classes, after their retries
            raise OSError(_reason(error)) from error

    def put(self, key: str, data: bytes) -> None:
        """Write the whole object, replacing what was there: at once where the store can. Raises RunError."""
        with self._or_run_error(key, "written"):
            if self.local:
                self._put_local(self.path(key), io.BytesIO(data))
            else:
                self.fs.pipe_file(self.path(key), data)  # S3: one PUT, or a multipart upload: both atomic

    def put_file(self, key: str, path: str) -> None:
        """Write a file of this machine as an object, as `put` does, not through memory. Raises RunError."""
        with self._or_run_error(key, "written"):
            if self.local:
                with open(path, "rb") as file:
                    self._put_local(self.path(key), file)
            else:
                self.fs.put_file(path, self.path(key))

    @staticmethod
    def _put_local(path: str, data: BinaryIO) -> None:
        if OF_RAY in path:
            raise OSError("Ray deletes this folder with its job; give s3://bucket/prefix or a full path")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        half = os.path.join(os.path.dirname(path), f".tmp-{uuid.uuid4().hex}")
        try:
            with open(half, "wb") as file:
                shutil.copyfileobj(data, file)
                file.flush()
                os.fsync(file.fileno())  # the name must not appear before the bytes, even in a power cut
            os.replace(half, path)
        except BaseException:
            if os.path.exists(half):
                os.remove(half)
            raise

    def delete(self, key: str) -> None:
        """Remove the object; one that is gone already is fine. Raises RunError."""
        with self._or_run_error(key, "deleted"), contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self.path(key))

    @contextlib.contextmanager
    def _or_run_error(self, key: str, what: str) -> Iterator[None]:
        """Turn what a store raises, each its own classes, into a RunError."""
        try:
            yield
        except Exception as error:
            raise RunError(f"{self.uri}/{key}: cannot be {what}: {_reason(error)}") from error


def trouble(error: BaseException) -> str:
    """Whose trouble it is that an object cannot be read, as Failure.kind has it: empty where it is gone."""
    if isinstance(error, MemoryError):
        return type(error).__name__
    if isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError)):
        return ""
    of_credentials = CREDENTIALS.search(f"{error} {getattr(error.__cause__, 'response', '')}")
    return UNREADABLE if isinstance(error, PermissionError) and not of_credentials else STORE


def _s3_options() -> dict:
    """Of s3fs. AWS_MAX_ATTEMPTS of the environment counts, which botocore ignores where a number is given."""
    attempts = max(1, int(os.environ.get("AWS_MAX_ATTEMPTS", ATTEMPTS)))
    retries = {"mode": "standard", "total_max_attempts": attempts}
    config = {"retries": retries, "connect_timeout": 10, "read_timeout": PATIENCE_S}
    if os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        # Many servers that are not Amazon's refuse the checksums that botocore sends since 2025.
        names = ("request_checksum_calculation", "response_checksum_validation")
        config |= {name: os.environ.get(f"AWS_{name.upper()}", "when_required") for name in names}
    unsigned = os.environ.get("AWS_NO_SIGN_REQUEST", "").lower() in ("yes", "true", "1")
    return {"config_kwargs": config, "use_listings_cache": False, "anon": unsigned}


def split_uri(uri: str) -> tuple[Store, str]:
    """The store and key of one file: `s3://b/models/fast.safetensors` → (Store s3://b/models, name)."""
    parent, _, name = Store(uri).uri.rpartition("/")
    return Store(parent or "/"), name


def read_file(uri: str) -> bytes:
    """One file, by its path or URI. Raises UsageError where there is none, RunError where the store fails."""
    store, key = split_uri(uri)
    try:
        return store.read(key)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise UsageError(f"{uri}: cannot be read ({error})") from None
    except OSError as error:
        raise RunError(f"{uri}: cannot be read ({error})") from None


def _written(stat: os.stat_result) -> float:
    return max(stat.st_mtime, stat.st_ctime)  # a copy may keep the original's date of change


def _scan(folder: str) -> list[os.DirEntry]:
    """What lies in a folder; nothing in one that is not there."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_file(entry: os.DirEntry) -> bool:
    """Whether `_stat_of` is something, told by the folder alone where it can be."""
    return entry.is_file(follow_symlinks=False) or _stat_of(entry) is not None


def _stat_of(entry: os.DirEntry) -> os.stat_result | None:
    """Of a file, or of a link to nowhere (a git-annex that was not fetched): it is listed, and fails when
    read. None of what is neither, or was deleted meanwhile."""
    try:
        stat = entry.stat()
    except OSError:
        return os.lstat(entry.path) if entry.is_symlink() else None
    return stat if S_ISREG(stat.st_mode) else None


def _reason(error: BaseException) -> str:
    said = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
    return said + (HINT if type(error).__name__ == "NoCredentialsError" else "")
