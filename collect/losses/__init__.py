"""Loss and margin of each sample of a batch, whatever the criterion."""
