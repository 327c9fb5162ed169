"""The Ray jobs, one file each: `python -m jobs.NAME --help`."""
