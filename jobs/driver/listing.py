"""The cases below a prefix, said in numbers."""

from bts.cases.layouts import Listing, find_cases
from bts.errors import UsageError
from bts.storage import Store
from jobs.driver.progress import examples, say


def list_cases(source: Store, labels: str) -> Listing:
    """The cases below a prefix, said in numbers; what is not a case is said too, not ignored.

    Raises UsageError if there is none, RunError if the store cannot be listed.
    """
    listing = find_cases(source.list(), labels)
    found = len(listing.cases) + len(listing.problems)
    slices = f", {len(listing.slices)} figshare slices" if listing.slices else ""
    say(f"{source.uri}: {found} cases{slices}")
    if listing.strays:
        say(f"{source.uri}: {len(listing.strays)} files belong to no case: {examples(listing.strays)}")
    if not found and not listing.slices:
        example = "BraTS2021_00000/BraTS2021_00000_flair.nii.gz, or figshare's 1.mat"
        raise UsageError(f"{source.uri}: no case found; expected files such as {example}")
    return listing
