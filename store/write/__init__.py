"""Writing to a lake: experiments, runs, results, checkpoints, and who is at it."""
