"""Raw scans → cases, and labelmaps back to the scanner's space. No Ray.

The way of a study: headers (one file → its tags) → series (slices → one volume's geometry) → choice (which
series is which modality, by `rules`) → convert → register → resample and strip → a case and its record.
Needs the packages of requirements-intake.txt, and for brain masks and the atlas those of
requirements-brain.txt.
"""
