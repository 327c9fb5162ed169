"""The files of one case → its images and its truth, by the reader that its dataset names.

A reader tells what a case's files hold and decodes them; everything after it is the same for all cases.
"""

from collections.abc import Collection
from typing import Protocol

from bts.cases import figshare
from bts.cases.case import Case, CaseVolume
from bts.cases.crop import assemble
from bts.errors import CaseError
from bts.images.checks import MAX_BYTES
from bts.images.grid import Volume
from bts.images.metaimage import read_mha
from bts.images.nifti import read_nifti
from bts.images.nrrd import names_of, read_nrrd
from bts.labels import EXAMPLE, STRUCTURES, UNKNOWN, meaning, named_as, structure, values_of
from bts.modalities import MODALITIES
from bts.storage import Store, trouble

MSD_CHANNELS = ("flair", "t1", "t1ce", "t2")  # order of the fourth axis of MSD Task01's images


class Reader(Protocol):
    """How the files of a case hold its images and its truth. All that reads raises CaseError."""

    def modalities(self, case: Case) -> tuple[str, ...]:
        """Those that the listing promises, in the order of MODALITIES."""

    def missing(self, case: Case) -> tuple[str, ...]:
        """Modalities that the case should have and lacks."""

    def inputs(self, case: Case) -> list[str]:
        """Roles of the files that a labelmap is made from."""

    def has_truth(self, case: Case) -> bool:
        """Whether the listing promises one."""

    def truth_key(self, case: Case) -> str:
        """The file that a message about the truth names."""

    def read(self, case: Case, store: Store, truth: bool) -> tuple[dict[str, Volume], Volume | None]:
        """(image by modality, truth if it is wanted and there)."""

    def read_modality(self, case: Case, store: Store, modality: str) -> Volume:
        """One of `modalities`, whatever the files hold beside it."""

    def read_truth(self, case: Case, store: Store) -> Volume:
        """In the values of the file."""


class Roles:
    """A file a modality, and one of the truth: BraTS, and what is laid out like it."""

    def modalities(self, case: Case) -> tuple[str, ...]:
        return tuple(m for m in MODALITIES if m in case.files)

    def missing(self, case: Case) -> tuple[str, ...]:
        there = self.modalities(case)
        return tuple(m for m in MODALITIES if m not in there)

    def inputs(self, case: Case) -> list[str]:
        return [role for role in (*MODALITIES, "image") if role in case.files]

    def has_truth(self, case: Case) -> bool:
        return "seg" in case.files

    def truth_key(self, case: Case) -> str:
        return case.files["seg"].key

    def read(self, case: Case, store: Store, truth: bool) -> tuple[dict[str, Volume], Volume | None]:
        images = {m: read_role(case, store, m) for m in self.modalities(case)}
        return images, self.read_truth(case, store) if truth and self.has_truth(case) else None

    def read_modality(self, case: Case, store: Store, modality: str) -> Volume:
        return read_role(case, store, modality)

    def read_truth(self, case: Case, store: Store) -> Volume:
        return read_role(case, store, "seg")


class Channels(Roles):
    """One 4D file of all modalities, and one of the truth: MSD Task01."""

    def modalities(self, case: Case) -> tuple[str, ...]:
        return MODALITIES if "image" in case.files else super().modalities(case)

    def read(self, case: Case, store: Store, truth: bool) -> tuple[dict[str, Volume], Volume | None]:
        if "image" not in case.files:  # nnU-Net's raw data of the same set: a file a modality
            return super().read(case, store, truth)
        whole = read_role(case, store, "image", channels=len(MSD_CHANNELS))
        stacked = dict(zip(MSD_CHANNELS, whole.voxels, strict=True))
        images = {m: Volume(stacked[m], whole.grid) for m in MODALITIES}
        return images, self.read_truth(case, store) if truth and self.has_truth(case) else None

    def read_modality(self, case: Case, store: Store, modality: str) -> Volume:
        if "image" not in case.files:
            return super().read_modality(case, store, modality)
        whole = read_role(case, store, "image", channels=len(MSD_CHANNELS))
        return Volume(whole.voxels[MSD_CHANNELS.index(modality)], whole.grid)


class Slices:
    """A file a slice, of T1ce and truth in one: figshare."""

    def modalities(self, case: Case) -> tuple[str, ...]:
        return ("t1ce",)

    def missing(self, case: Case) -> tuple[str, ...]:
        return ()

    def inputs(self, case: Case) -> list[str]:
        return list(case.files)

    def has_truth(self, case: Case) -> bool:
        return True

    def truth_key(self, case: Case) -> str:
        return next(iter(case.files))

    def read(self, case: Case, store: Store, truth: bool) -> tuple[dict[str, Volume], Volume | None]:
        image, seg = self._stack(case, store)
        return {"t1ce": image}, seg if truth else None

    def read_modality(self, case: Case, store: Store, modality: str) -> Volume:
        return self._stack(case, store)[0]

    def read_truth(self, case: Case, store: Store) -> Volume:
        return self._stack(case, store)[1]

    def _stack(self, case: Case, store: Store) -> tuple[Volume, Volume]:
        files = ((key, fetch(key, store, entry.size)) for key, entry in case.files.items())
        return figshare.stack([figshare.read_slice(data, key) for key, data in files])


READERS: dict[str, Reader] = {"roles": Roles(), "channels": Channels(), "slices": Slices()}


def reader_of(case: Case) -> Reader:
    """The one that its dataset names."""
    return READERS[case.traits.reader]


def load_case(
    case: Case, store: Store, *, truth: bool = True, allow_missing: Collection[str] = ()
) -> CaseVolume:
    """Read, decode, check, orient and crop one case; without its truth if `truth` is False.

    allow_missing: modalities that the case may lack, and then has no channel of.

    Raises CaseError with the case, the file, the stage ("list", "read" or "check") and the mend.
    """
    try:
        if error := foreseen(case, allow_missing):
            raise error
        return assemble(case, *reader_of(case).read(case, store, truth))
    except CaseError as error:
        error.case = error.case or case.id
        error.stage = error.stage or "check"
        raise


def foreseen(case: Case, allow_missing: Collection[str] = (), *, truth: bool = False) -> CaseError | None:
    """Why a case must fail, as far as the listing tells: it lacks modalities, or (where its truth is wanted)
    nothing tells the convention of its labels."""
    reader = reader_of(case)
    missing = reader.missing(case)
    if not set(missing) <= set(allow_missing) or len(missing) == len(MODALITIES):
        problem = f"{', '.join(missing)} missing (there is {', '.join(case.files)})"
        mend = f"add the missing files, or go without them: --allow-missing {' '.join(missing)}"
        return CaseError(problem, mend=mend, case=case.id, stage="list")
    if truth and reader.has_truth(case) and case.labels == UNKNOWN:
        known = "|".join(case.traits.conventions) or "NAME (docs/reference/data.md lists them)"
        mend = f"say so with --labels {known}, or spell them out: --labels {EXAMPLE}"
        problem = "the name does not tell which labels its ground truth uses"
        return CaseError(problem, mend=mend, case=case.id, file=reader.truth_key(case), stage="list")
    return None


def read_role(case: Case, store: Store, role: str, *, channels: int = 0) -> Volume:
    """One file of a case, decoded by its extension. Raises CaseError."""
    key = case.files[role].key
    try:
        data = fetch(key, store, case.files[role].size)
        if role == "seg":
            refuse_other_names(data, case.labels, key)
        return decode(data, key, channels=channels)
    except CaseError as error:
        error.case, error.stage = case.id, "read"
        raise


def decode(data: bytes, key: str, *, channels: int = 0) -> Volume:
    """A file by its extension. channels: as read_nifti takes them. Raises CaseError."""
    if key.lower().endswith(".mha"):  # never one of several channels: only MSD has them, in NIfTI
        return read_mha(data, key)
    if key.lower().endswith(".nrrd"):
        return read_nrrd(data, key)
    return read_nifti(data, key, channels=channels)


def refuse_other_names(data: bytes, convention: str, file: str, *, truth: bool = True) -> None:
    """Raise CaseError where a segmentation calls a value otherwise than its convention does: 3D Slicer
    numbers segments as they were made, whatever data set the case is of. truth: --labels speaks of it."""
    if convention == UNKNOWN or not file.lower().endswith(".nrrd"):
        return
    names, known = names_of(data, file), values_of(convention)
    for value, name in sorted(names.items()):
        label = structure(name)
        if label and known.get(value) != STRUCTURES[label]:
            told = named_as(names)
            said = f"say so with --labels {told}" if told else f"spell them out: --labels {EXAMPLE}"
            said = said if truth else f"number the segments as {convention} does"
            raise CaseError(
                f"its segment of value {value} is named {name[:40]!r}; the convention {convention} has "
                f"{meaning(convention)}",
                mend=f"{said}, or rename the segments",
                file=file,
            )


def fetch(key: str, store: Store, size: int = 0) -> bytes:
    """The bytes of one object, which the listing says are `size`. Raises CaseError of stage "read"."""
    if size > 1.01 * MAX_BYTES:  # what does not shrink by gzip grows a little
        problem = f"is {size / 2**30:.0f} GiB large, no scan of a head is"
        raise CaseError(problem, mend="look at what it is", file=key, stage="read")
    try:
        return store.read(key)
    except (OSError, MemoryError) as error:
        mend = "check that it is still there and may be read, then run again"
        problem = f"cannot be read: {str(error) or 'no memory for it'}"
        raise CaseError(problem, mend=mend, file=key, stage="read", kind=trouble(error)) from error
