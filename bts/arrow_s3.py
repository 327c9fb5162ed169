"""S3 as pyarrow and Ray see it, for those who may use one prefix of a bucket alone."""

from collections.abc import Iterable

import pyarrow.fs

from bts import s3_listing


class Handler(pyarrow.fs.FSSpecHandler):
    """Asks nothing of the bucket as a whole."""

    def create_dir(self, path: str, recursive: bool) -> None:
        """Nothing: S3 has no folders. s3fs would ask for the bucket, and make one that it may not see."""

    def get_file_info(self, paths: Iterable[str]) -> list[pyarrow.fs.FileInfo]:
        return [self._info_of(path) for path in paths]

    def _info_of(self, path: str) -> pyarrow.fs.FileInfo:
        try:
            return super().get_file_info([path])[0]
        except PermissionError:
            if s3_listing.lists(self.fs, path):
                raise
            return pyarrow.fs.FileInfo(path, pyarrow.fs.FileType.NotFound)
