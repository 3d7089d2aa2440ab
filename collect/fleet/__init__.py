"""Many runs: the target and its shadows, references, distilled and leave-one-out models, trained in processes."""
