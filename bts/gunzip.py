"""A gzip file in memory, read piece by piece."""

from isal import igzip_lib


class Gunzip:
    """The content of a gzip file, member after member, no more of it than is asked for.

    All voxels are asked for at once and come as the very bytes that were unpacked: through Python's own
    readers they would be copied twice, a third of the time.
    """

    def __init__(self, data: bytes):
        self.left, self.member = data, None

    def read(self, most: int) -> bytes:
        """So many bytes, or all that are left. Raises EOFError where a member ends too early."""
        parts = []
        while most and (found := self._some(most)):
            parts.append(found)
            most -= len(found)
        return parts[0] if len(parts) == 1 else b"".join(parts)

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
