"""The cases below a prefix, said in numbers."""

from collections.abc import Sequence

from bts.cases.layouts import Listing
from bts.cases.said import list_folder
from bts.errors import UsageError
from bts.storage import Store
from jobs.driver.progress import examples, say


def list_cases(source: Store, labels: str, roles: Sequence[str] = (), patients: str = "") -> Listing:
    """The cases below a prefix, said in numbers; what is not a case is said too, not ignored.

    labels, roles, patients: the flags of that name.

    Raises UsageError if there is none, RunError if the store cannot be listed.
    """
    listing = list_folder(source, labels, roles, patients)
    found = len(listing.cases) + len(listing.problems)
    slices = f", {len(listing.slices)} figshare slices" if listing.slices else ""
    say(f"{source.uri}: {found} cases{slices}")
    if listing.strays:
        say(f"{source.uri}: {len(listing.strays)} files belong to no case: {examples(listing.strays)}")
    for case_id, key in list(listing.truth_like.items())[:3]:
        say(f"case {case_id} has no ground truth; this looks like it: {key} (if so, say --roles seg=PATTERN)")
    if len(listing.truth_like) > 3:
        say(f"… and {len(listing.truth_like) - 3} more cases like it")
    if not found and not listing.slices:
        example = "BraTS2021_00000/BraTS2021_00000_flair.nii.gz, or figshare's 1.mat"
        raise UsageError(f"{source.uri}: no case found; expected files such as {example}")
    return listing
