import pytest

from bts.cases.layouts import find_cases
from bts.errors import UsageError
from bts.storage import Entry, Store
from jobs.segment import check_apart, pool, wanted_gpus


def test_labelmaps_never_go_where_they_would_count_as_truths(tmp_path):
    keys = ["imagesTr/BRATS_001.nii.gz", "labelsTr/BRATS_001.nii.gz", "imagesTs/BRATS_485.nii.gz"]
    cases, source = find_cases(Entry(key, 1, "v") for key in keys).cases, Store(tmp_path / "Task01")
    for folder in ("labelsTr", "labelsTs"):
        with pytest.raises(UsageError, match=f"{folder}/BRATS_001.nii.gz would count as a truth"):
            check_apart(cases, source, Store(tmp_path / "Task01" / folder))
    for elsewhere in ("Task01", "Task01/labelmaps", "Task01b/labelsTr", "labelsTr"):
        check_apart(cases, source, Store(tmp_path / elsewhere))
    with pytest.raises(UsageError, match="another folder"):
        check_apart(cases, Store("s3://b"), Store("s3://b/x/labelsTs/"))


@pytest.mark.parametrize(
    ("cpus", "actors", "threads", "reserved"),
    [
        ([2], 1, 2, 1),
        ([16], 4, 4, 3),
        ([1, 1, 1], 3, 1, 0.5),  # three small nodes: no actor asks for more than one of them has
        ([0, 8, 8], 4, 4, 3),  # a head that computes nothing
        ([0], 1, 1, 0.5),  # an autoscaler that has no worker yet
    ],
)
def test_actors_fit_their_nodes(cpus, actors, threads, reserved):
    assert pool(cpus, 0) == (actors, threads, {"num_cpus": reserved})


def test_one_actor_a_gpu():
    assert pool([16, 16], 2) == (2, 1, {"num_gpus": 1})
    assert pool([16, 16], 2, share=0.4) == (4, 1, {"num_gpus": 0.4})


def test_gpus_are_asked_for():
    assert [wanted_gpus(gpu, 0, alone=False) for gpu in ("auto", "yes", "no")] == [0, 1, 0]
    assert [wanted_gpus(gpu, 3, alone=True) for gpu in ("auto", "yes", "no")] == [3, 3, 0]
    with pytest.raises(UsageError, match="no GPU"):
        wanted_gpus("yes", 0, alone=True)
