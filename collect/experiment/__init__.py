"""What an experiment is made of: samples, memberships, canaries, pictures."""
