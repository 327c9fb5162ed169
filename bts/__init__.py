"""Brain-tumour segmentation on MRI: everything that happens inside a task. No Ray in here."""
