"""The MRI modalities of BraTS, T1ce being T1 with a contrast agent, in the order of everything here."""

MODALITIES = ("t1", "t1ce", "t2", "flair")
