"""Recording under the trainers of Lightning and Hugging Face."""
