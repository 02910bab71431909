"""What a run has made, for people: the summary, the dataset card, single rows. Reads files, writes nothing."""
