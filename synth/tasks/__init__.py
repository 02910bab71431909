"""What a job can ask to be generated: one file each, one class each."""
