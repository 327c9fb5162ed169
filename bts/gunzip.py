"""A gzip file in memory, read as a stream."""

import io

from isal import igzip_lib


class Gunzip(io.RawIOBase):
    """The content of a gzip file, member after member, no more of it than is asked for.

    All voxels are asked for at once: IGzipFile, which reads piece by piece, takes a quarter longer.
    """

    def __init__(self, data: bytes):
        self.left, self.member = data, None

    def readable(self) -> bool:
        return True

    def readinto(self, view: memoryview) -> int:
        found = self._some(len(view))
        view[: len(found)] = found
        return len(found)

    def _some(self, most: int) -> bytes:
        while self.member or self.left:
            given = b""
            if not self.member:
                self.member, given = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP), self.left
            found = self.member.decompress(given, most)
            if self.member.eof:
                # Zeros after a member are padding, of tapes and of some disks.
                self.left, self.member = self.member.unused_data.lstrip(b"\0"), None
            elif not found:
                raise EOFError("it ends before its end-of-stream marker")
            if found:
                return found
        return b""
