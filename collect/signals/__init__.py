"""What a finished model says of each sample, as it is and in other views."""
