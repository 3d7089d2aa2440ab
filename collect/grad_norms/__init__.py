"""The norm of each sample's gradient, without the gradients of single samples."""
