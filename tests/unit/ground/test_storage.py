"""bts.storage: list, read, put and delete, alike on a local disk and in a bucket; whose fault an error is."""

import os
import pickle
import subprocess
import time

import pytest
from pyarrow.fs import FileType

from bts.errors import RunError, UsageError
from bts.storage import Store, split_uri


@pytest.fixture(params=["local", "s3"])
def store(request, tmp_path):
    return Store(str(tmp_path / "a b") if request.param == "local" else request.getfixturevalue("bucket").uri)


def test_what_is_put_is_listed_and_read(store):
    assert store.list() == []
    store.put("x/ü 1.bin", b"one")
    store.put("y.bin", b"")
    assert [(e.key, e.size) for e in store.list()] == [("x/ü 1.bin", 3), ("y.bin", 0)]
    assert [e.key for e in store.list("x")] == ["x/ü 1.bin"]
    assert (store.keys(), store.keys("x")) == ({"x/ü 1.bin", "y.bin"}, {"x/ü 1.bin"})
    assert store.read("x/ü 1.bin") == b"one"


def test_a_new_content_is_a_new_version(store):
    store.put("k", b"one")
    (before,) = store.list()
    store.put("k", b"two")
    (after,) = store.list()
    assert before.version != after.version and store.read("k") == b"two"


def test_delete_is_done_once_and_may_be_said_twice(store):
    store.put("k", b"one")
    store.delete("k")
    store.delete("k")
    assert store.list() == []


def test_reading_what_is_not_there_is_an_os_error(store):
    with pytest.raises(OSError):
        store.read("nothing")


def test_stores_travel_to_workers(store):
    store.put("k", b"one")
    assert pickle.loads(pickle.dumps(store)).read("k") == b"one"


def test_arrow_reads_the_same_bytes(store):
    store.put("k", b"one")
    with store.arrow_fs().open_input_file(store.path("k")) as file:
        assert file.read() == b"one"


def test_a_missing_bucket_is_no_empty_folder(s3):
    with pytest.raises(RunError, match="no-such-bucket"):
        Store("s3://no-such-bucket/x").list()


def test_a_prefix_is_enough(bucket, monkeypatch):
    """Whose policy grants one prefix alone may not ask for the bucket."""
    monkeypatch.setattr("s3fs.S3FileSystem.exists", lambda *_: False)
    assert Store(bucket.uri).list() == []


def test_what_is_not_there_and_may_not_be_read_is_not_there(bucket, faults):
    """So S3 says it to those who may not list all of the bucket."""
    store, objects = Store(bucket.uri), f"/{bucket.directory.parent.name}/"
    store.put("models/fast.safetensors", b"one")
    with faults.inject("denied", key=objects, times=0):
        with pytest.raises(FileNotFoundError, match="there is no models/fast"):
            store.read("models/fast")
        with pytest.raises(PermissionError):
            store.read("models/fast.safetensors")
    with faults.inject("denied", method="HEAD", key=objects, times=0):
        (found,) = store.arrow_fs().get_file_info([store.path("models/fast")])
        assert found.type == FileType.NotFound
        with pytest.raises(PermissionError):
            store.arrow_fs().get_file_info([store.path("models/fast.safetensors")])


def test_a_folder_for_arrow_makes_no_bucket(s3):
    """Of a bucket that it may not ask for s3fs thinks that there is none."""
    store = Store("s3://not-there/x")
    store.arrow_fs().create_dir(store.path("y"), recursive=True)
    with pytest.raises(RunError, match="not-there"):
        store.list()
    assert pickle.loads(pickle.dumps(store.arrow_fs())) == store.arrow_fs()


@pytest.mark.parametrize("folders", [1, 3, 40])
def test_a_listing_of_several_pages(bucket, folders):
    """In one folder; in a few, which are listed side by side; in many."""
    names = [f"{n:04}" for n in range(2400)]
    for folder in range(folders):
        (bucket.directory / str(folder)).mkdir(parents=True)  # where the server has not looked yet
    keys = sorted(f"{int(name) % folders}/{name}" for name in names)
    for key in (*keys, "beside"):
        (bucket.directory / key).write_bytes(b"x")
    entries = Store(bucket.uri).list()
    assert [entry.key for entry in entries] == [*keys, "beside"]
    assert {entry.size for entry in entries} == {1} and min(entry.modified for entry in entries) > 1e9


def test_an_unknown_scheme_is_a_usage_error():
    with pytest.raises(UsageError, match="nosuch://"):
        Store("nosuch://x/y").list()


def test_a_misspelt_number_of_attempts_is_a_usage_error(monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "many")
    with pytest.raises(UsageError, match="many"):
        Store("s3://bucket/cases").list()


def test_a_password_in_a_uri_is_refused_and_not_repeated():
    with pytest.raises(UsageError) as error:
        Store("sftp://me:hush@host/cases")
    assert "hush" not in str(error.value)


def test_a_uri_that_is_none_is_one_line():
    with pytest.raises(RunError, match=r"http://\[::1: cannot be listed: Invalid IPv6 URL"):
        Store("http://[::1").list()


def test_another_kind_of_store_tells_versions_too():
    store = Store("memory://versions")
    store.put("case", b"one")
    (before,) = store.list()
    store.put("case", b"two")
    (after,) = store.list()
    assert after.version != before.version and before.modified > 0


def test_a_slash_at_the_end_is_nothing():
    """In a bucket `reports//index.html`, as a message would say, is another key than what was written."""
    assert [Store(uri).uri for uri in ("s3://b/cases/", "s3://b/")] == ["s3://b/cases", "s3://b"]
    assert [Store(uri).uri for uri in ("file:///", "memory://")] == ["file:///", "memory://"]


def test_one_file_of_a_bucket():
    store, key = split_uri("s3://b/models/fast.safetensors")
    assert (store.uri, key) == ("s3://b/models", "fast.safetensors")


def test_a_half_written_file_never_shows(tmp_path):
    store = Store(str(tmp_path))
    (tmp_path / ".tmp-123").write_bytes(b"half")  # what a killed writer leaves
    assert store.list() == []


def test_linked_cases_are_followed_and_loops_end(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "f").write_bytes(b"1")
    (tmp_path / "cases").mkdir()
    os.symlink(tmp_path / "real", tmp_path / "cases" / "link")
    os.symlink(tmp_path / "cases", tmp_path / "real" / "loop")
    assert [e.key for e in Store(str(tmp_path / "cases")).list()] == ["link/f"]


def test_keys_are_those_of_the_listing(tmp_path):
    (tmp_path / "file").write_bytes(b"1")
    os.symlink(tmp_path / "file", tmp_path / "link")
    os.symlink(tmp_path / "nothing", tmp_path / "lost")  # listed, and fails when it is read
    os.symlink(tmp_path, tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    store = Store(str(tmp_path))
    assert sorted(store.keys()) == [e.key for e in store.list()] == ["file", "link", "lost"]


def test_the_listing_tells_when_each_was_written(store):
    before = time.time()
    store.put("one", b"1")
    (entry,) = store.list()
    assert before - 2 <= entry.modified <= time.time() + 2  # stores keep whole seconds


def test_a_full_disk_ends_the_run_and_leaves_nothing(tmp_path):
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", tmp_path], capture_output=True)
    if mount.returncode:
        pytest.skip("a small disk cannot be mounted here (needs root)")
    try:
        with pytest.raises(RunError, match="No space left"):
            Store(str(tmp_path)).put("big", bytes(1 << 20))
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_folder_that_may_not_be_listed_is_named(tmp_path, monkeypatch):
    (tmp_path / "lost+found").mkdir()
    scandir = os.scandir

    def refused(path):  # as of root's own; tests may run as root
        if str(path).endswith("lost+found"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(RunError, match=rf"{tmp_path}/lost\+found: cannot be listed: Permission denied"):
        Store(tmp_path).list()


def test_a_file_in_a_folders_place_is_said(tmp_path):
    (tmp_path / "set.zip").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"set\.zip: is a file; give a folder"):
        Store(tmp_path / "set.zip").list()


def test_a_bucket_without_credentials_gets_a_hint(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody is asked: there is nothing to sign
    with pytest.raises(RunError, match=r"AWS_ACCESS_KEY_ID .*AWS_NO_SIGN_REQUEST=yes"):
        Store("s3://a-public-bucket/cases").list()
    with pytest.raises(OSError, match=r"AWS_ACCESS_KEY_ID .*every node"):
        Store("s3://a-public-bucket/cases").read("scan.nii.gz")
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "yes")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(RunError, match="cannot be listed") as asked:
        Store("s3://a-public-bucket/cases2").list()
    assert "NO_SIGN" not in str(asked.value)
