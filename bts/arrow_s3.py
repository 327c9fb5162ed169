"""S3 as pyarrow and Ray see it."""

import pyarrow.fs


class Handler(pyarrow.fs.FSSpecHandler):
    """S3 has no folders to make. s3fs would ask for the bucket, which who may use one prefix alone may not,
    and then try to make it."""

    def create_dir(self, path: str, recursive: bool) -> None:
        """Nothing."""
