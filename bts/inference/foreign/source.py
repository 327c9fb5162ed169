"""What somebody brings to be adopted: a folder, a zip of one, or a single file; read, never unpacked."""

import io
import lzma
import posixpath
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property

from bts.errors import UsageError
from bts.storage import Store, read_file, split_uri

MOST_BYTES = 8 << 30  # of a file within a zip, unpacked; a checkpoint with its optimiser has some hundred MB
MOST_FILES = 100_000
NO_SOUND_ZIP = (zipfile.BadZipFile, RuntimeError, EOFError, OSError, ValueError, zlib.error, lzma.LZMAError)
"""What reading a damaged, locked or odd file within a zip raises."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the flags of jobs.adopt say about a source."""

    name: str
    """Of the model."""
    channels: tuple[str, ...] = ()
    """Modality of ours of each of its channels, where its own names do not tell."""
    labels: str = ""
    """Label convention of its outputs, as bts.labels.spelt has it, where its own names do not tell."""
    configuration: str = ""
    """Which of several that a source holds."""
    trust: bool = False
    """Whether a program may be run."""


class Source:
    """The files of a source by their names, relative and sorted."""

    def __init__(self, uri: str):
        """uri: a local path or a URI of any store. Raises UsageError where there is nothing."""
        store = Store(uri)
        self.uri, self._single = store.uri, store.fs.isfile(store.root)
        if not self.names:
            raise UsageError(f"{self.uri}: there is nothing here; give a folder, a zip or a file")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of all files; of a single file its own name."""
        if self._zip:
            return tuple(sorted(one.filename for one in self._zip.infolist() if not one.is_dir()))
        if self._single:
            return (split_uri(self.uri)[1],)
        return tuple(entry.key for entry in Store(self.uri).list())

    def read(self, name: str) -> bytes:
        """One file. Raises UsageError where there is none."""
        if name not in self.names:
            raise UsageError(f"{self.uri}: has no file {name}")
        if not self._zip:
            return read_file(self.uri if self._single else f"{self.uri}/{name}")
        if self._zip.getinfo(name).file_size > MOST_BYTES:
            raise UsageError(
                f"{self.uri}: {name} would unpack to more than {MOST_BYTES >> 30} GiB; look at it"
            )
        try:
            return self._zip.read(name)
        except NO_SOUND_ZIP as error:
            raise UsageError(f"{self.uri}: {name} cannot be unpacked ({error}); zip it again") from None

    @cached_property
    def _zip(self) -> zipfile.ZipFile | None:
        if not (self._single and self.uri.lower().endswith(".zip")):
            return None
        try:
            found = zipfile.ZipFile(io.BytesIO(read_file(self.uri)))
        except NO_SOUND_ZIP as error:
            raise UsageError(f"{self.uri}: no zip, or damaged ({error})") from None
        names = found.namelist()
        if len(names) > MOST_FILES:
            raise UsageError(f"{self.uri}: holds {len(names):,} files, more than any model has")
        for name in names:
            plain = posixpath.normpath(name)
            if plain.startswith(("/", "..")) or "\\" in name or plain.rstrip("/") != name.rstrip("/"):
                raise UsageError(
                    f"{self.uri}: holds {name!r}, which is no plain path within it; it is refused"
                )
        if len(set(names)) != len(names):
            raise UsageError(f"{self.uri}: holds two files of one name; it is refused")
        return found
